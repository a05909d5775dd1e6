"""DETR, ResNet-50, 500 epochs, rate /10 at epoch 400. The official README's COCO val2017 AP: 42.0. Not run here."""

from .detr_r50_300ep import COCO_TRAIN_IMAGES, data, dataloader, lr_multiplier, model, optimizer, train

lr_multiplier.milestones = [400]
lr_multiplier.total = 500
train.max_iter = 500 * COCO_TRAIN_IMAGES // 64
