"""AdaMixer, ResNet-101, 300 queries, 7 stages, selective recollection (1, 2, 3, 5, 8, 13, 21 groups in training).

The SQR release's COCO val2017 AP: 49.8; its schedule is not published for this model, 36 epochs is inferred from
configs since deleted there. Not run here.
"""

from .adamixer_300q_r101_36ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.stages.num_stages = 7
model.decoder.plan = "selective"
