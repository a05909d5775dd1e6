"""quick/dino_shapes with selective query recollection."""

from .dino_shapes import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
train.output_dir = "output/sqr_dino_shapes"
