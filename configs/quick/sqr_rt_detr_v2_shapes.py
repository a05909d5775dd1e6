"""quick/rt_detr_v2_shapes with selective query recollection."""

from .rt_detr_v2_shapes import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
train.output_dir = "output/sqr_rt_detr_v2_shapes"
