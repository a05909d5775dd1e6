"""quick/dab_detr_shapes with hybrid matching: 120 further queries, each object repeated 6 times, in training only."""

from .dab_detr_shapes import data, dataloader, lr_multiplier, model, optimizer, train

model.query_generator.num_auxiliary = 120
model.criterion.auxiliary_repeats = 6
model.criterion.auxiliary_weight = 1.0
train.output_dir = "output/h_dab_detr_shapes"
