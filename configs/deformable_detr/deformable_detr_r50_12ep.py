"""Deformable DETR, ResNet-50, 12 epochs, rate /10 at epoch 11. The SQR paper's COCO val2017 AP: 37.2. Not run here.

The paper does not print this schedule's milestone; 11 is what 12-epoch recipes of this family commonly use. Data and
evaluation as in the SQR release, which is written for mmdetection (configs/common/mmdet.py).
"""

from ..common.mmdet import follow_mmdet
from ..common.schedules import step_12ep as lr_multiplier
from .deformable_detr_r50_50ep import COCO_TRAIN_IMAGES, data, dataloader, model, optimizer, train

follow_mmdet(model, dataloader)
lr_multiplier.milestones = [11]
lr_multiplier.warmup_iters = 0
train.max_iter = 12 * COCO_TRAIN_IMAGES // 32
