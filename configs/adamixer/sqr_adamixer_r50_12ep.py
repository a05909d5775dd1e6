"""adamixer_r50_12ep with selective query recollection: 1, 2, 3, 5, 8, 13 groups in training.

The SQR release's COCO val2017 AP: 44.5 (base 42.5). Not run here.
"""

from .adamixer_r50_12ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
