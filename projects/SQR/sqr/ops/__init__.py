"""Operators of the detectors: multi-scale deformable attention and AdaMixer's adaptive sampling.

Compiled for CPU and CUDA where setup.py could (``python -m sqr.ops`` says what there is), pure PyTorch
elsewhere.
"""

from .functional import adaptive_sample, ms_deform_attn, operand, use_reference
from .reference import adaptive_sample_reference, ms_deform_attn_reference

__all__ = [
    "adaptive_sample",
    "adaptive_sample_reference",
    "ms_deform_attn",
    "ms_deform_attn_reference",
    "operand",
    "use_reference",
]
