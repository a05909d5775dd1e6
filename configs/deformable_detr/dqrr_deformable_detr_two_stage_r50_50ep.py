"""deformable_detr_two_stage_r50_50ep with dense recollection and recurrence, to run the last stage alone in a loop.

No published figure. Not run here.
"""

from .deformable_detr_two_stage_r50_50ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "dense_recurrent"
