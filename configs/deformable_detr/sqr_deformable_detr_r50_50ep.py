"""deformable_detr_r50_50ep with selective query recollection: 1, 2, 3, 5, 8, 13 groups in training.

The SQR release's COCO val2017 AP: 45.8 (base 44.5). Not run here.
"""

from .deformable_detr_r50_50ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
