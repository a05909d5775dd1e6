"""group_detr_r50_12ep with selective query recollection: 11 times 1, 2, 3, 5, 8, 13 groups in training.

Recollected groups are summed, initial groups averaged. No published figure. Not run here.
"""

from .group_detr_r50_12ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
