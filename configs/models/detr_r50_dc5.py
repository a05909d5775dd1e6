"""DETR on ResNet-50 with a dilated last stage (DC5): features of stride 16 instead of 32."""

from detectron2.config import LazyCall as L

from sqr.layers.backbone import dilated_c5_stages

from .detr_r50 import model

model.backbone.stages = L(dilated_c5_stages)(depth=50, norm="FrozenBN")
