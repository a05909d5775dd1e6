"""dab_detr_r50_50ep with dense query recollection: 1, 2, 4, 8, 16, 32 groups in training.

No published figure. Not run here.
"""

from .dab_detr_r50_50ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "dense"
