"""detr_r50_300ep with dense query recollection: 1, 2, 4, 8, 16, 32 groups in training.

No published figure. Not run here.
"""

from .detr_r50_300ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "dense"
