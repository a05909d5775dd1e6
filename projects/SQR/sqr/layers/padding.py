"""Features that depend only on the image, not on the padding of its batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class PaddingZeroer:
    """Sets padding to zero wherever a convolution of a network reads it.

    A convolution at an image's edge reads beyond it. For a single image these are zeros; in a batch with larger images
    they are what earlier layers computed from the padding, which is not zero after a bias. Inside :meth:`beyond` both
    cases read zeros. Every convolution with a kernel larger than 1x1 is guarded, whatever the class of the network;
    images must be padded to a multiple of the network's coarsest stride.

    Operations that read the whole map (squeeze-and-excitation, attention) are not convolutions and are not guarded; see
    :meth:`warn_of_leak`.

    Args:
        network: images ``(B, 3, height, width)`` -> features by name. Each such convolution gets a hook;
            parameters and their names do not change.
    """

    def __init__(self, network: nn.Module):
        self._valid: Tensor | None = None
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
                module.register_forward_pre_hook(self._zero)

    @contextmanager
    def beyond(self, padding_mask: Tensor) -> Iterator[None]:
        """Inside this context, zero the padding of the input images, given as ``(B, height, width)`` bool."""
        self._valid = (~padding_mask)[:, None].float()
        try:
            yield
        finally:
            self._valid = None

    def warn_of_leak(self, network: nn.Module) -> None:
        """Log a warning if the network reads padding in spite of the guards."""
        leak = self.leak(network)
        if leak > 1e-3:
            logger.warning(
                "the backbone reads padding by other operations than convolutions (a feature changes by %.2g): "
                "predictions depend on what else is in the batch. Choose another backbone, or pad every image alike by "
                "model.size_divisibility=N, N at least data.max_size",
                leak,
            )

    @torch.no_grad()
    def leak(self, network: nn.Module, size: int = 64) -> float:
        """The largest change of a feature when a noise image is padded to twice its width, relative to the largest."""
        images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        images = images.to(next(network.parameters()))
        padded = F.pad(images, (0, size))
        training = [module for module in network.modules() if module.training]
        network.eval()
        features = []
        for x in (images, padded):
            mask = torch.zeros(x.shape[:1] + x.shape[2:], dtype=torch.bool, device=x.device)
            mask[..., size:] = True
            with self.beyond(mask):
                features.append(network(x))
        for module in training:
            module.training = True
        return max(
            float((alone - features[1][name][..., : alone.shape[-1]]).abs().max() / alone.abs().max().clamp(min=1e-12))
            for name, alone in features[0].items()
        )

    def _zero(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        if self._valid is None:
            return None
        (x,) = inputs
        return x * F.interpolate(self._valid, size=x.shape[-2:]).to(x.dtype)


def check_divisible(height: int, width: int, levels: Sequence[Tensor]) -> None:
    """Check that the padded images have a whole number of pixels of every level.

    Only then is a level's mask of an image independent of the padding of its batch.

    Raises:
        ValueError: they do not; the message says what to set.
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
