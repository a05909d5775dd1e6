"""quick/deformable_detr_folder with dense query recollection."""

from .deformable_detr_folder import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "dense"
train.output_dir = "output/dqr_deformable_detr_folder"
