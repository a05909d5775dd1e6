"""Compares an exported model with the original."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .program import INPUTS, check_packages, example_inputs

SIZES = ((1, 160, 96), (3, 97, 255))
"""Batch, height and width of the checks of a dynamic export: neither those it was traced with nor multiples."""


def onnx_runner(path: str | os.PathLike) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """An ONNX file as a function of tensors, run by onnxruntime on the CPU.

    Raises:
        UserError: onnxruntime is not installed.
    """
    check_packages("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        feed = {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(x)) for x in session.run(None, feed))

    return run


@torch.no_grad()
def largest_difference(
    expected: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    exported: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    sizes: Sequence[tuple[int, int, int]] = SIZES,
    *,
    device: str | torch.device = "cpu",
) -> float:
    """The largest difference of two functions with a detector's inputs on noise images of some sizes.

    Scores and normalised boxes are compared directly, logits by their sigmoid, boxes in pixels relative to the image.
    Detections are compared with the nearest one of the same label, so that equal scores may be reordered; those within
    0.001 of the last score, which a selection may or may not keep, are left out.

    Args:
        expected, exported: ``(images, image_sizes)`` to the outputs of :class:`~sqr.export.DeployedDetector`.
        sizes: batch, height and width.
        device: of the inputs of both.

    Returns:
        The largest difference, infinite if a label has no counterpart.
    """
    worst = 0.0
    for batch, height, width in sizes:
        inputs = [x.to(device) for x in example_inputs(batch=batch, height=height, width=width)]
        ours, theirs = expected(*inputs), exported(*inputs)
        if len(ours) == 2:  # raw outputs
            differences = [(ours[0].sigmoid() - theirs[0].sigmoid()).abs().max(), (ours[1] - theirs[1]).abs().max()]
            worst = max(worst, *(float(d) for d in differences))
            continue
        extent = inputs[1].flip(-1).repeat(1, 2)
        for image in range(batch):
            first, second = ([x[image] for x in outputs] for outputs in (ours, theirs))
            worst = max(worst, _of_image(first, second, extent[image]))
    return worst


def _of_image(ours: Sequence[Tensor], theirs: Sequence[Tensor], extent: Tensor) -> float:
    """Of one image's scores ``(D,)``, labels ``(D,)`` and boxes ``(D, 4)``."""
    kept = ours[0] > ours[0].min() + 1e-3
    if not kept.any():
        return float((ours[0] - theirs[0]).abs().max())
    scores, labels, boxes = (x[kept] for x in ours)
    distance = (scores[:, None] - theirs[0]).abs()
    distance = torch.maximum(distance, ((boxes[:, None] - theirs[2]) / extent).abs().amax(-1))
    return float(distance.masked_fill(labels[:, None] != theirs[1], torch.inf).amin(-1).max())
