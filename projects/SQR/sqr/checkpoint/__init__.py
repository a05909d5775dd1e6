"""Published checkpoints in, this package's names out, and back."""

from .conversion import ConversionReport, Layout
from .layouts import LAYOUTS
from .registry import NATIVE, convert, convert_back, detect_layout, get_layout

__all__ = ["LAYOUTS", "NATIVE", "ConversionReport", "Layout", "convert", "convert_back", "detect_layout", "get_layout"]
