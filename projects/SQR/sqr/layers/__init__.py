"""Building blocks that detectors share."""

from .deformable_attention import MultiScaleDeformableAttention
from .mlp import FFN, MLP
from .neck import ConvNeck
from .position import SinePositionEmbedding, sine_encoding

__all__ = [
    "FFN",
    "MLP",
    "ConvNeck",
    "MultiScaleDeformableAttention",
    "SinePositionEmbedding",
    "sine_encoding",
]
