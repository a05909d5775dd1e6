"""Building blocks that detectors share."""

from .adaptive_mixing import AdaptiveMixing, AdaptiveSampling
from .deformable_attention import MultiScaleDeformableAttention
from .mlp import FFN, MLP
from .neck import ChannelMappingNeck, ConvNeck
from .norm import FixedStatsBatchNorm
from .position import SinePositionEmbedding, sine_encoding

__all__ = [
    "FFN",
    "MLP",
    "AdaptiveMixing",
    "AdaptiveSampling",
    "ChannelMappingNeck",
    "ConvNeck",
    "FixedStatsBatchNorm",
    "MultiScaleDeformableAttention",
    "SinePositionEmbedding",
    "sine_encoding",
]
