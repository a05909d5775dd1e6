"""DAB-Deformable-DETR, ResNet-50, 50 epochs (Liu et al., ICLR 2022). Not run here."""

from ..models.dab_deformable_detr_r50 import model
from .dab_detr_r50_50ep import data, dataloader, lr_multiplier, optimizer, train

model.num_classes = "${data.num_classes}"
