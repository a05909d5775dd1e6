"""dino_r50_12ep with 5 scales, from stride 4 on. Published COCO val2017 AP: 49.4. Not run here."""

from .dino_r50_12ep import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.out_features = ["res2", "res3", "res4", "res5"]
model.encoder.neck.in_channels = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
model.encoder.num_levels = 5
