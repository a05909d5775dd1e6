"""AdaMixer, ResNet-50, 300 queries, 36 epochs. Published COCO val2017 AP: 47.0. Not run here.

Published on 8 GPUs with 2 images each and DETR's augmentation.
"""

from ..common.data.coco import data, dataloader
from ..common.optim import adamixer_adamw as optimizer
from ..common.schedules import step_36ep as lr_multiplier
from ..common.train import IMAGENET_R50, train
from ..models.adamixer_r50 import model

COCO_TRAIN_IMAGES_WITH_OBJECTS = 117266

model.num_classes = "${data.num_classes}"
model.query_generator.num_queries = 300
model.postprocessor.topk = 300
dataloader.train.dataset.filter_empty = True  # as published, like the grouping
dataloader.train.aspect_ratio_grouping = True
dataloader.train.mapper.augmentations.crop_max_size = "${data.max_size}"  # as published; DETR has no limit there
dataloader.train.total_batch_size = 16
train.init_checkpoint = IMAGENET_R50
train.clip_grad.max_norm = 1.0
train.max_iter = 36 * COCO_TRAIN_IMAGES_WITH_OBJECTS // 16
