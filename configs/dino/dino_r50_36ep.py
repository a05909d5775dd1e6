"""dino_r50_12ep for 36 epochs. Published COCO val2017 AP: 50.9. Not run here."""

from .dino_r50_12ep import COCO_TRAIN_IMAGES, data, dataloader, lr_multiplier, model, optimizer, train

lr_multiplier.milestones = [30]
lr_multiplier.total = 36
train.max_iter = 36 * COCO_TRAIN_IMAGES // 16
