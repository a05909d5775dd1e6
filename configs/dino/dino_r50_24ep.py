"""dino_r50_12ep for 24 epochs. Published COCO val2017 AP: 50.4. Not run here."""

from .dino_r50_12ep import COCO_TRAIN_IMAGES, data, dataloader, lr_multiplier, model, optimizer, train

lr_multiplier.milestones = [20]
lr_multiplier.total = 24
train.max_iter = 24 * COCO_TRAIN_IMAGES // 16
