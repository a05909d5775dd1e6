"""quick/dino_folder with selective query recollection."""

from .dino_folder import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
train.output_dir = "output/sqr_dino_folder"
