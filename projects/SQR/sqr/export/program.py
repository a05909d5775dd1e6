"""Detectors as ``torch.export`` programs and as ONNX."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import UserError, one_line
from ..meta_arch import QueryBasedDetector
from ..ops import use_reference
from .wrapper import OUTPUTS, DeployedDetector

OPSET = 20
"""Of the ONNX files: the first with a ``GridSample`` of its present meaning."""

INPUTS = ("images", "image_sizes")
AXES = {"images": {0: "batch", 2: "height", 3: "width"}, "image_sizes": {0: "batch"}}
"""The dynamic axes of the inputs."""


def example_inputs(*, batch: int = 2, height: int = 128, width: int = 160) -> tuple[Tensor, Tensor]:
    """Noise: images ``(B, 3, height, width)`` and their sizes ``(B, 2)``, all but the first with some padding."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, height, width, generator=generator) * 255
    sizes = [(height - i * height // (4 * batch), width - i * width // (3 * batch)) for i in range(batch)]
    return images, torch.tensor(sizes)


def export_program(
    model: QueryBasedDetector,
    *,
    outputs: str = "detections",
    reference: bool = False,
    dynamic: bool = True,
    batch: int = 2,
    height: int = 128,
    width: int = 160,
) -> ExportedProgram:
    """Export a detector with ``torch.export``.

    Inputs and outputs are those of :class:`~sqr.export.DeployedDetector`.

    Args:
        model: on the device that the program will run on.
        outputs: ``"detections"``, ``"pairs"`` or ``"raw"``.
        reference: write the sampling operators with PyTorch's ``grid_sample``, so that the program runs without
            this package; otherwise each is one node, ``torch.ops.sqr.*``, if they are compiled.
        dynamic: batch, height and width may differ at each call; otherwise they are fixed to those given here.
        batch, height, width: of the images that the model is traced with, in pixels. Dynamic axes need at least 2.

    Raises:
        UserError: the model cannot be exported in this way, for the reason in the message.
        ValueError: see :class:`~sqr.export.DeployedDetector`.
    """
    module = DeployedDetector(model=model, outputs=outputs)
    if dynamic and min(batch, height, width) < 2:
        raise UserError(f"a dynamic axis is traced with at least 2, not with {batch} x 3 x {height} x {width}")
    shapes = {name: dict.fromkeys(axes, Dim.DYNAMIC) if dynamic else None for name, axes in AXES.items()}
    inputs = tuple(x.to(model.device) for x in example_inputs(batch=batch, height=height, width=width))
    operators = use_reference() if reference else contextlib.nullcontext()
    try:
        with torch.no_grad(), operators, _plain_attention():
            return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
    except torch._dynamo.exc.UserError as error:
        raise UserError(f"torch.export refuses: {one_line(error)[:400]}; try a static export") from error


def export_onnx(
    model: QueryBasedDetector,
    path: str | os.PathLike,
    *,
    outputs: str = "detections",
    dynamic: bool = True,
    batch: int = 2,
    height: int = 128,
    width: int = 160,
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Write a detector as ONNX, opset :data:`OPSET`, standard operators only.

    Args:
        model: a detector on the CPU.
        path: of the file.
        outputs, dynamic, batch, height, width: see :func:`export_program`.
        metadata: stored in the model's properties, as JSON.

    Raises:
        UserError: the packages are missing, or as :func:`export_program`.
    """
    check_packages("onnx", "onnxscript")
    program = export_program(
        model, outputs=outputs, reference=True, dynamic=dynamic, batch=batch, height=height, width=width
    )
    with _plain_attention():
        written = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=OUTPUTS[outputs],
            dynamic_shapes=AXES if dynamic else None,
            verbose=False,
        )
    for key, value in {"outputs": outputs, **(metadata or {})}.items():
        written.model.metadata_props[key] = json.dumps(value)
    written.save(os.fspath(path))


def check_packages(*names: str) -> None:
    """Check that optional packages are installed.

    Raises:
        UserError: one is not; the message says what to install.
    """
    for name in names:
        try:
            __import__(name)
        except ImportError as error:
            raise UserError(f"ONNX needs {name}: pip install 'detectron2-sqr[export]'") from error


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention without fused kernels.

    The memory layout of their results is not reproduced by a later decomposition into ordinary operators, whose views
    then fail.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
