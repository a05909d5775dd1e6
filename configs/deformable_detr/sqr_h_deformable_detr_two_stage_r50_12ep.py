"""h_deformable_detr_two_stage_r50_12ep with selective query recollection of both query sets.

No published figure. Not run here.
"""

from .h_deformable_detr_two_stage_r50_12ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
