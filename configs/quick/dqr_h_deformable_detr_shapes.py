"""quick/h_deformable_detr_shapes with dense query recollection."""

from .h_deformable_detr_shapes import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "dense"
train.output_dir = "output/dqr_h_deformable_detr_shapes"
