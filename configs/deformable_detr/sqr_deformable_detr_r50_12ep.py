"""deformable_detr_r50_12ep with selective query recollection: 1, 2, 3, 5, 8, 13 groups in training.

The SQR paper's COCO val2017 AP: 39.9 (base 37.2). Not run here.
"""

from .deformable_detr_r50_12ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
