"""h_deformable_detr_two_stage_r50_12ep for 36 epochs. Published COCO val2017 AP: 50.0. Not run here."""

from .deformable_detr_r50_50ep import COCO_TRAIN_IMAGES
from .h_deformable_detr_two_stage_r50_12ep import data, dataloader, lr_multiplier, model, optimizer, train

lr_multiplier.milestones = [30]
lr_multiplier.total = 36
train.max_iter = 36 * COCO_TRAIN_IMAGES // 16
