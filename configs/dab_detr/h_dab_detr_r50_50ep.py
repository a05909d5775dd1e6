"""dab_detr_r50_50ep with hybrid matching: 1,500 further queries, each object repeated 6 times, in training only.

H-DETR's numbers (Jia et al., CVPR 2023), which were found for two-stage Deformable DETR. No published figure. Not run
here.
"""

from .dab_detr_r50_50ep import data, dataloader, lr_multiplier, model, optimizer, train

model.query_generator.num_auxiliary = 1500
model.criterion.auxiliary_repeats = 6
model.criterion.auxiliary_weight = 1.0
