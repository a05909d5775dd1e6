"""quick/h_deformable_detr_folder with selective query recollection."""

from .h_deformable_detr_folder import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
train.output_dir = "output/sqr_h_deformable_detr_folder"
