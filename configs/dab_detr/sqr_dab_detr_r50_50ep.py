"""dab_detr_r50_50ep with selective query recollection: 1, 2, 3, 5, 8, 13 groups in training.

The SQR paper's COCO val2017 AP: 44.5 (base 42.2); detrex's SQR-DAB-DETR: 44.4 (base 43.3). Not run here.
"""

from .dab_detr_r50_50ep import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "selective"
