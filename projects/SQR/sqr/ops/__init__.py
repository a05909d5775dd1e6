"""Operators of the detectors: multi-scale deformable attention, and AdaMixer's adaptive sampling and mixing.

Compiled for CPU and CUDA if setup.py could (``python -m sqr.ops`` prints what was built), else pure
PyTorch. Adaptive mixing is compiled only for the CPU.
"""

from .functional import (
    adaptive_mix,
    adaptive_sample,
    autocast_dtype,
    ms_deform_attn,
    operand,
    use_reference,
    without_autocast,
)
from .reference import adaptive_mix_reference, adaptive_sample_reference, ms_deform_attn_reference

__all__ = [
    "adaptive_mix",
    "adaptive_mix_reference",
    "adaptive_sample",
    "adaptive_sample_reference",
    "autocast_dtype",
    "ms_deform_attn",
    "ms_deform_attn_reference",
    "operand",
    "use_reference",
    "without_autocast",
]
