"""dab_deformable_detr_r50_50ep with selective query recollection: 1, 2, 3, 5, 8, 13 groups in training.

No published figure. Not run here.
"""

from .dab_deformable_detr_r50_50ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
