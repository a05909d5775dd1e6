"""Deformable DETR with iterative box refinement, ResNet-50, 50 epochs. Paper's COCO val2017 AP: 46.2. Not run here."""

from .deformable_detr_r50_50ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.stages.refine = True
