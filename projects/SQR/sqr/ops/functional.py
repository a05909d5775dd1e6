"""The operators' public functions: arguments are checked, compiled kernels used if possible."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from . import _library
from .reference import adaptive_mix_reference, adaptive_sample_reference, ms_deform_attn_reference

logger = logging.getLogger(__name__)

library = _library.load()
_told: set[str] = set()
_reference_only = False


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al., "Deformable DETR", ICLR 2021, equation 3).

    Args:
        value: ``(B, N, H, D)``, the levels' tokens concatenated, ``N = sum(h * w)``; float16, bfloat16,
            float32 or float64. Sums are taken in float32 (float64 for float64) and returned in value's dtype.
        spatial_shapes: ``(h, w)`` of each level, on the host.
        sampling_locations: ``(B, Q, H, L, P, 2)`` as (x, y), where (0, 0) is the top left corner of a level's
            first pixel and (1, 1) the bottom right corner of its last. Outside it, values are zero. A
            location that is not finite counts as outside: it adds nothing and its gradient is zero. Any
            floating dtype; preferably float32, since 16-bit offsets are coarser than a pixel.
        attention_weights: ``(B, Q, H, L, P)``, any floating dtype.

    Returns:
        ``(B, Q, H * D)``: for each query and head the weighted sum of the bilinear samples of all levels and
        points.

    Raises:
        ValueError: sizes or devices do not fit together; the message names them.
        TypeError: a dtype that is not floating.
        RuntimeError: on a second derivative, and for a backward pass on CUDA under
            ``torch.use_deterministic_algorithms(True)``.
    """
    _check_value(value, spatial_shapes, sampling_locations, attention_weights)
    b, _, h, _ = value.shape
    levels = len(spatial_shapes)
    shape = sampling_locations.shape
    if len(shape) != 6 or shape[0] != b or (shape[2], shape[3], shape[5]) != (h, levels, 2) or shape[4] == 0:
        raise ValueError(
            f"sampling_locations must be (B={b}, Q, H={h}, L={levels}, P, 2) for value {tuple(value.shape)} "
            f"and {levels} levels, but is {tuple(shape)}"
        )
    if attention_weights.shape != shape[:-1]:
        raise ValueError(
            f"attention_weights must be {tuple(shape[:-1])}, as sampling_locations without its last axis, "
            f"but is {tuple(attention_weights.shape)}"
        )
    flat = _host_sizes(spatial_shapes)
    return _run(
        value,
        lambda v, x, w: torch.ops.sqr.ms_deform_attn(v, flat, x, w),
        lambda v, x, w: ms_deform_attn_reference(v, spatial_shapes, x, w),
        sampling_locations,
        attention_weights,
    )


def adaptive_sample(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    points: Tensor,
    level_weights: Tensor,
) -> Tensor:
    """AdaMixer's adaptive sampling of a feature pyramid (Gao et al., CVPR 2022, section 3.2).

    Every point is read bilinearly from every level of its group's channels, and the levels are added with the
    point's own weights, AdaMixer's softmax over the distances of the point's z to the levels'
    ``log2(stride)``; the caller computes that softmax. The position in a level is ``point / stride - 0.5``
    in pixels whose centres are whole numbers, which is what ``grid_sample`` gives for a grid of
    ``2 * point / (size * stride) - 1`` without aligned corners.

    A pyramid of ``(B, C, h, w)`` maps becomes ``value`` once per image, for all stages and groups of queries::

        tokens = torch.cat([f.flatten(2).transpose(1, 2) for f in features], dim=1)  # (B, N, C)
        value = tokens.unflatten(2, (G, -1))  # group g owns the channels [g * D, (g + 1) * D)
        sampled = adaptive_sample(value, [f.shape[-2:] for f in features], strides, points, level_weights)

    Args:
        value: ``(B, N, G, D)``, the levels' pixels concatenated, ``N = sum(h * w)``, ``D`` channels of
            each of the ``G`` sampling groups; float16, bfloat16, float32 or float64. Sums are taken in
            float32 (float64 for float64) and returned in value's dtype.
        spatial_shapes: ``(h, w)`` of each level, on the host.
        strides: of each level, in pixels of the padded input image, on the host.
        points: ``(B, Q, G, P, 2)`` as (x, y) in pixels of the padded input image, where (0, 0) is the top
            left corner of its first pixel. Outside a level, values are zero. A point that is not finite
            counts as outside: it adds nothing and its gradient is zero. Any floating dtype; preferably float32.
        level_weights: ``(B, Q, G, P, L)``, any floating dtype.

    Returns:
        ``(B, Q, G, P, D)``, contiguous, the input of adaptive mixing.

    Raises:
        ValueError: sizes or devices do not fit together; the message names them.
        TypeError: a dtype that is not floating.
        RuntimeError: on a second derivative, and for a backward pass on CUDA under
            ``torch.use_deterministic_algorithms(True)``.
    """
    _check_value(value, spatial_shapes, points, level_weights)
    b, _, g, _ = value.shape
    levels = len(spatial_shapes)
    if len(strides) != levels or not all(s > 0 for s in strides):
        raise ValueError(f"strides must be {levels} positive numbers, one for each level, but are {list(strides)}")
    shape = points.shape
    if len(shape) != 5 or shape[0] != b or (shape[2], shape[4]) != (g, 2) or shape[3] == 0:
        raise ValueError(
            f"points must be (B={b}, Q, G={g}, P, 2) for value {tuple(value.shape)}, but is {tuple(shape)}"
        )
    if level_weights.shape != (*shape[:-1], levels):
        raise ValueError(
            f"level_weights must be {(*shape[:-1], levels)} for points {tuple(shape)} and {levels} levels, "
            f"but is {tuple(level_weights.shape)}"
        )
    flat = _host_sizes(spatial_shapes)
    steps = [float(s) for s in strides]
    return _run(
        value,
        lambda v, x, w: torch.ops.sqr.adaptive_sample(v, flat, steps, x, w),
        lambda v, x, w: adaptive_sample_reference(v, spatial_shapes, steps, x, w),
        points,
        level_weights,
    )


def adaptive_mix(sampled: Tensor, channel: Tensor, spatial: Tensor, epsilon: float = 1e-5) -> Tensor:
    """AdaMixer's adaptive mixing (Gao et al., CVPR 2022, section 3.3): channels, then points, by given matrices.

    After each product the result is normalised over points and channels together and passed through a ReLU. Compiled
    for the CPU, where it takes less than half the time of PyTorch's batched products and saves only its arguments
    for the backward pass; batched products run on other devices, for 16-bit types and under autocast.

    Args:
        sampled: ``(N, P, D)``, for each of ``N`` queries (times feature groups) ``P`` points of ``D`` channels.
        channel: ``(N, D, D)``.
        spatial: ``(N, P_out, P)``.
        epsilon: added to variances.

    Returns:
        ``(N, P_out, D)``.

    Raises:
        ValueError: sizes do not fit together; the message names them.
        RuntimeError: on a second derivative of the compiled operator.
    """
    if sampled.dim() != 3:
        raise ValueError(f"sampled must be (queries, points, channels), but is {tuple(sampled.shape)}")
    items, points, channels = sampled.shape
    if channel.shape != (items, channels, channels):
        raise ValueError(
            f"channel must be {(items, channels, channels)} for sampled {tuple(sampled.shape)}, "
            f"but is {tuple(channel.shape)}"
        )
    if spatial.dim() != 3 or (spatial.shape[0], spatial.shape[2]) != (items, points):
        raise ValueError(
            f"spatial must be ({items}, P_out, {points}) for sampled {tuple(sampled.shape)}, "
            f"but is {tuple(spatial.shape)}"
        )
    operands = (sampled, channel, spatial)
    plain = sampled.device.type == "cpu" and autocast_dtype(sampled) is None
    precise = all(x.dtype == sampled.dtype for x in operands) and sampled.dtype in (torch.float32, torch.float64)
    if plain and precise and _takes_compiled(sampled):
        return torch.ops.sqr.adaptive_mix(*operands, epsilon)
    return adaptive_mix_reference(*operands, epsilon)


def operand(value: Tensor) -> Tensor:
    """``value`` in the dtype that the operators read, so that it is converted once for several calls.

    The CUDA kernels read 16-bit types, all others float32 (float64 for float64). An operator's result has the dtype of
    the value passed to it.
    """
    keeps = value.is_cuda and _takes_compiled(value)
    return value if keeps else value.to(_library.accumulation_dtype(value))


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype of autocast on the device of ``x``; None if it is off and on devices without autocast."""
    return torch.get_autocast_dtype(x.device.type) if _autocasts(x) else None


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """A context with autocast off on the device of ``x``; a no-op if it is off, so that exports do not contain it."""
    return torch.autocast(x.device.type, enabled=False) if _autocasts(x) else contextlib.nullcontext()


def _autocasts(x: Tensor) -> bool:
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


@contextlib.contextmanager
def use_reference() -> Iterator[None]:
    """Run the PyTorch references inside this context: for second derivatives, ONNX and comparisons."""
    global _reference_only
    before, _reference_only = _reference_only, True
    try:
        yield
    finally:
        _reference_only = before


def _run(value: Tensor, compiled: Callable, reference: Callable, locations: Tensor, weights: Tensor) -> Tensor:
    dtype = _library.accumulation_dtype(value)
    locations, weights = locations.to(dtype), weights.to(dtype)
    if _takes_compiled(value):
        return compiled(operand(value), locations, weights).to(value.dtype)
    with without_autocast(value):
        return reference(operand(value), locations, weights).to(value.dtype)


def _takes_compiled(value: Tensor) -> bool:
    if _reference_only:
        return False
    reason = library.reason
    if not reason and value.device.type not in ("cpu", "cuda", "meta"):
        reason = f"there are no kernels for {value.device.type} tensors"
    elif not reason and value.is_cuda and not library.has_cuda:
        reason = "they were built without CUDA"
    if not reason:
        return True
    if reason not in _told and not torch.compiler.is_compiling():
        _told.add(reason)
        logger.warning("sqr.ops runs the slower PyTorch reference, not the compiled operators: %s", reason)
    return False


def _host_sizes(spatial_shapes: Sequence[tuple[int, int]]) -> list[int]:
    """The sizes in one list of ints; ``torch.jit.trace`` turns them into tensors, which operators do not accept."""
    return [int(size) if isinstance(size, Tensor) else size for level in spatial_shapes for size in level]


def _check_value(value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    if value.dim() != 4:
        raise ValueError(f"value must be (batch, tokens, heads, channels), but is {tuple(value.shape)}")
    for name, tensor in (("value", value), ("locations", locations), ("weights", weights)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be of a floating dtype, but is {tensor.dtype}")
        if tensor.device != value.device:
            raise ValueError(f"{name} is on {tensor.device}, but value on {value.device}")
    if len(spatial_shapes) == 0 or any(len(level) != 2 for level in spatial_shapes):
        raise ValueError(f"spatial_shapes must be one (height, width) for each level, but is {spatial_shapes}")
    tokens = sum(height * width for height, width in spatial_shapes)
    if tokens != value.shape[1]:
        raise ValueError(
            f"spatial_shapes {[tuple(s) for s in spatial_shapes]} cover {tokens} tokens, but value "
            f"{tuple(value.shape)} has {value.shape[1]}"
        )
    if any(height < 1 or width < 1 for height, width in spatial_shapes):
        raise ValueError(f"a level of spatial_shapes {[tuple(s) for s in spatial_shapes]} has no pixels")
