"""quick/d_fine_shapes with selective query recollection."""

from .d_fine_shapes import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
train.output_dir = "output/sqr_d_fine_shapes"
