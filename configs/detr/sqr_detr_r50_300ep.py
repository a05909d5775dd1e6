"""detr_r50_300ep with selective query recollection: 1, 2, 3, 5, 8, 13 groups in training.

No published figure. Not run here.
"""

from .detr_r50_300ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
