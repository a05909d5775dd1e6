"""AdaMixer, ResNet-101, 300 queries, 36 epochs. Published COCO val2017 AP: 48.0. Not run here."""

from ..common.train import IMAGENET_R101
from .adamixer_300q_r50_36ep import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.stages.depth = 101
train.init_checkpoint = IMAGENET_R101
