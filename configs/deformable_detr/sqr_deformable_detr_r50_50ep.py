"""deformable_detr_r50_50ep with selective query recollection: 1, 2, 3, 5, 8, 13 groups in training.

The SQR release's COCO val2017 AP: 45.8 (base 44.5). Not run here. The release is written for mmdetection, whose loader
and clipping this recipe has (configs/common/mmdet.py); deformable_detr_r50_50ep is the official code's recipe, which
has neither. What remains: the convolutions between backbone and encoder have a bias here, of zero at the start.
"""

from ..common.mmdet import follow_mmdet
from .deformable_detr_r50_50ep import data, dataloader, lr_multiplier, model, optimizer, train

follow_mmdet(model, dataloader)
model.decoder.plan = "selective"
