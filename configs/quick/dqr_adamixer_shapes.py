"""quick/adamixer_shapes with dense query recollection."""

from .adamixer_shapes import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "dense"
train.output_dir = "output/dqr_adamixer_shapes"
