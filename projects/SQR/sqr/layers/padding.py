"""Features that depend on the image only, not on how far its batch is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn


class PaddingZeroer:
    """Sets what lies beyond each image to zero wherever a convolution of a network reads it.

    A convolution at an image's edge reads beyond it. Alone, an image ends there and zeros are read; in a batch with
    larger images the same places hold what earlier layers made of the padding, which is not zero after a bias. Inside
    :meth:`beyond` both cases read zeros. Every convolution with a kernel above 1x1 is guarded, whatever class of
    network it is in; images must be padded to a multiple of the network's coarsest stride.

    Operations that read the whole map (squeeze-and-excitation, attention) are not convolutions and are not guarded.

    Args:
        network: gets a hook on each such convolution; its parameters and their names stay as they are.
    """

    def __init__(self, network: nn.Module):
        self._valid: Tensor | None = None
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
                module.register_forward_pre_hook(self._zero)

    @contextmanager
    def beyond(self, padding_mask: Tensor) -> Iterator[None]:
        """Within the context, zero what ``(B, height, width)`` bool marks as padding of the input images."""
        self._valid = (~padding_mask)[:, None].float()
        try:
            yield
        finally:
            self._valid = None

    def _zero(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        if self._valid is None:
            return None
        (x,) = inputs
        return x * F.interpolate(self._valid, size=x.shape[-2:]).to(x.dtype)


def check_divisible(height: int, width: int, levels: Sequence[Tensor]) -> None:
    """Check that the padded images have a whole number of pixels of every level.

    Only then does a level's mask say the same of an image whatever its batch is padded to.

    Raises:
        ValueError: they have not; the message says what to set.
    """
    for axis, size in ((-2, height), (-1, width)):
        for x in levels:
            if size % x.shape[axis]:
                raise ValueError(
                    f"ignore_padding=True needs images padded to a multiple of every level's stride, but images of "
                    f"{height} x {width} make levels of {[tuple(x.shape[-2:]) for x in levels]}; set "
                    "model.size_divisibility to the coarsest stride (64 for four levels from res3)"
                )
            size = x.shape[axis]
