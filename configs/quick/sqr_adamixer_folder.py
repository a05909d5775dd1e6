"""quick/adamixer_folder with selective query recollection."""

from .adamixer_folder import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
train.output_dir = "output/sqr_adamixer_folder"
