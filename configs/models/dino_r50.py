"""DINO on ResNet-50 with 4 scales: only the model (Zhang et al., ICLR 2023)."""

from detectron2.config import LazyCall as L

from sqr.detectors.dino import DinoQueries, dino_stages
from sqr.layers.denoising import ContrastiveDenoising

from .deformable_detr_r50 import model

model.encoder.layers.ffn_dim = 2048
model.encoder.layers.dropout = 0.0
model.encoder.position_embedding.temperature = 20.0
model.encoder.position_embedding.offset = 0.0
model.query_generator = L(DinoQueries)(
    num_queries=900,
    num_classes="${..num_classes}",
    dim="${..encoder.dim}",
    denoising=L(ContrastiveDenoising)(
        num_classes="${...num_classes}",
        dim="${...encoder.dim}",
        num_queries=100,  # pairs of queries an image, about
        label_noise=0.5,
        box_noise=1.0,
        num_labels=None,  # num_classes + 1
        sees_queries=True,  # False isolates the denoising groups
    ),
)
model.decoder.stages = L(dino_stages)(
    num_stages=6,
    num_classes="${...num_classes}",
    shared_heads=True,
    dim="${...encoder.dim}",
    num_heads="${...encoder.layers.num_heads}",
    num_levels="${...encoder.num_levels}",
    num_points=4,
    ffn_dim="${...encoder.layers.ffn_dim}",
    dropout="${...encoder.layers.dropout}",
)
model.criterion.class_weight = 1.0
model.postprocessor.topk = 300
