"""Group DETR on Conditional DETR, ResNet-50, 11 groups of 300 queries, 12 epochs, rate /10 at epoch 11.

Rates and losses of Conditional DETR; the figure of this schedule is not quoted here because it was not at hand. Not run
here.

    projects/SQR/train_net.py --config-file detr/group_detr_r50_12ep --num-gpus 8
"""

from ..common.data.coco import data, dataloader
from ..common.optim import detr_adamw as optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import IMAGENET_R50, train
from ..models.group_detr_r50 import model

COCO_TRAIN_IMAGES = 118287

model.num_classes = "${data.num_classes}"
lr_multiplier.milestones = [11]
lr_multiplier.warmup_iters = 0
train.init_checkpoint = IMAGENET_R50
train.max_iter = 12 * COCO_TRAIN_IMAGES // 16
