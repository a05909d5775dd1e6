"""Building blocks that detectors share."""

from .adaptive_mixing import AdaptiveMixing, AdaptiveSampling
from .attention import CrossAttention, SelfAttention
from .deformable_attention import MultiScaleDeformableAttention
from .dense_decoder import DenseDecoderLayer
from .heads import in_float32, make_heads
from .initialisation import xavier_uniform_all
from .mlp import FFN, MLP, make_activation
from .neck import ChannelMappingNeck, ConvNeck
from .norm import FixedStatsBatchNorm, MaskedGroupNorm
from .position import SinePositionEmbedding, box_encoding, resize_mask, sine_encoding
from .query_table import QueryTable

__all__ = [
    "FFN",
    "MLP",
    "AdaptiveMixing",
    "AdaptiveSampling",
    "ChannelMappingNeck",
    "ConvNeck",
    "CrossAttention",
    "DenseDecoderLayer",
    "FixedStatsBatchNorm",
    "MaskedGroupNorm",
    "MultiScaleDeformableAttention",
    "QueryTable",
    "SelfAttention",
    "SinePositionEmbedding",
    "box_encoding",
    "in_float32",
    "make_activation",
    "make_heads",
    "resize_mask",
    "sine_encoding",
    "xavier_uniform_all",
]
