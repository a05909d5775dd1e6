"""What PyTorch does on a GPU with tensors that have no data and no device: kernels chosen, dtypes under autocast.

Meta tensors take none of this package's CPU branches, but nor do they take PyTorch's fused GPU kernels or its autocast.
These rules put both in, as far as they decide what is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ..layers import in_float32
from ..ops import autocast_dtype

# PyTorch's lists of operations that autocast runs in 16 bits and in float32 on CUDA, by the functions' names.
_LOWERED_NAMES = (
    "__matmul__ addbmm addmm addmv addr baddbmm bmm chain_matmul conv1d conv2d conv3d conv_transpose1d "
    "conv_transpose2d conv_transpose3d einsum linear matmul mm multi_dot mv prelu scaled_dot_product_attention"
)
_RAISED_NAMES = (
    "__pow__ __rdiv__ __rpow__ __rtruediv__ acos asin binary_cross_entropy_with_logits cdist cosh cosine_similarity "
    "cross_entropy cumprod cumsum dist erfinv exp expm1 group_norm kl_div l1_loss layer_norm log log10 log1p log2 "
    "log_softmax mse_loss nll_loss norm normalize pow prod reciprocal renorm rsqrt sinh smooth_l1_loss softmax softmin "
    "softplus tan"
)
LOWERED, RAISED = frozenset(_LOWERED_NAMES.split()), frozenset(_RAISED_NAMES.split())
_MASK_ALIGNMENT = 16  # elements: the memory-efficient kernel pads the last axis of an additive mask to a multiple


class GpuRules(TorchFunctionMode):
    """Inside this context operations on meta tensors keep what they would keep on a GPU.

    Attention is the memory-efficient kernel (float32 and masks rule out the other fused ones, which keep as much),
    dropout keeps one byte an element, and inside of :meth:`autocast` matrix products are in 16 bits and norms, softmax
    and losses in float32.
    """

    def __init__(self):
        super().__init__()
        self._dtype: torch.dtype | None = None
        self._weights: dict[Tensor, Tensor] = {}

    @contextmanager
    def autocast(self, dtype: torch.dtype | None) -> Iterator[None]:
        """CUDA's autocast to ``dtype``; nothing for None. As PyTorch does, it keeps lowered weights to its end."""
        before = self._dtype, self._weights
        self._dtype, self._weights = dtype, {}
        try:
            yield
        finally:
            self._dtype, self._weights = before

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is in_float32:  # nothing called from here comes back here
            network, x = args
            return network(x.float())
        if func is autocast_dtype:
            return self._dtype
        if self._dtype is not None:
            name = getattr(func, "__name__", "")
            cast = self._lowered if name in LOWERED else _raised if name in RAISED else None
            if cast is not None:
                args, kwargs = tree_map(cast, args), tree_map(cast, kwargs)
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _lowered(self, x: object) -> object:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype in (self._dtype, torch.float64):
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(self._dtype)
        if x not in self._weights:
            self._weights[x] = x.to(self._dtype)
        return self._weights[x]


def _raised(x: object) -> object:
    lower = isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if lower else x


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and 0 < p < 1 else F.dropout(x, p, training, inplace)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    """``scaled_dot_product_attention`` by the kernel that a GPU would run; ``(B, H, Q, D)`` -> ``(B, H, Q, E)``."""
    bias = attn_mask
    if bias is not None:
        if bias.dtype == torch.bool:
            bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill_(~bias, -torch.inf)
        length = bias.shape[-1]
        bias = F.pad(bias, (0, -length % _MASK_ALIGNMENT))[..., :length]
        bias = bias.expand(*query.shape[:-1], key.shape[-2])
    keep = torch.is_grad_enabled()
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, bias, keep, dropout_p)[0]
