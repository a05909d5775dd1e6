"""H-DETR: two-stage Deformable DETR with hybrid matching, ResNet-50, 12 epochs (Jia et al., CVPR 2023).

In training 1,500 further queries are matched with every object repeated 6 times. With mixed selection,
look-forward-twice and no dropout, as released.

Published COCO val2017 AP: 48.7 (47.0 without the further queries). Not run here.
"""

from .deformable_detr_r50_50ep import COCO_TRAIN_IMAGES
from .deformable_detr_two_stage_r50_50ep import data, dataloader, lr_multiplier, model, optimizer, train

model.encoder.layers.ffn_dim = 2048
model.encoder.layers.dropout = 0.0
model.decoder.stages.look_forward_twice = True
model.query_generator.mixed_selection = True
model.query_generator.num_auxiliary = 1500
model.criterion.auxiliary_repeats = 6
model.criterion.auxiliary_weight = 1.0
dataloader.train.total_batch_size = 16
lr_multiplier.milestones = [11]
lr_multiplier.total = 12
train.max_iter = 12 * COCO_TRAIN_IMAGES // 16
