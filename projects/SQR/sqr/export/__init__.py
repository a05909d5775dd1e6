"""Detectors for deployment: ``torch.export`` programs and ONNX."""

from .program import AXES, INPUTS, OPSET, example_inputs, export_onnx, export_program
from .verification import largest_difference, onnx_runner
from .wrapper import OUTPUTS, DeployedDetector

__all__ = [
    "AXES",
    "INPUTS",
    "OPSET",
    "OUTPUTS",
    "DeployedDetector",
    "example_inputs",
    "export_onnx",
    "export_program",
    "largest_difference",
    "onnx_runner",
]
