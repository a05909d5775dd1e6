"""DETR with a dilated last stage, ResNet-50, 500 epochs. The official README's COCO val2017 AP: 43.3. Not run here."""

from ..models.detr_r50_dc5 import model
from .detr_r50_500ep import data, dataloader, lr_multiplier, optimizer, train

model.num_classes = "${data.num_classes}"
