"""Reading pickled files without running anything in them.

Beside weights, files hold what trainings put there: arguments, paths, NumPy's numbers, configs. Types that are known to
be data are read, many of them as a stand-in without behaviour, since only tensors are used. Everything else is refused.
"""

from __future__ import annotations

import argparse
import codecs
import collections
import datetime
import pathlib
import pickle
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..errors import one_line


def _dict(*factory: object) -> dict:
    """A ``defaultdict`` as a plain one."""
    return {}


def _list(*arguments: object) -> list:
    """A ``deque`` as a list."""
    return list(*arguments[:1])


def _nothing(*arguments: object) -> None:
    """Stands for functions that a file mentions and that are not called, such as a ``defaultdict``'s."""


def _known_types() -> dict[str, Callable]:
    """What may be in a file, by its name there."""
    known: dict[str, Callable] = {
        "argparse.Namespace": argparse.Namespace,
        "types.SimpleNamespace": SimpleNamespace,
        "collections.OrderedDict": collections.OrderedDict,
        "collections.defaultdict": _dict,
        "collections.deque": _list,
        "_codecs.encode": codecs.encode,
        "builtins.frozenset": frozenset,
        "builtins.slice": slice,
        "torch.torch_version.TorchVersion": str,
        "typing.Any": object,
    }
    known |= {f"builtins.{t}": _nothing for t in ("list", "dict", "tuple", "int", "float", "str", "bool", "getattr")}
    for t in (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone):
        known[f"datetime.{t.__name__}"] = t
    for module in ("pathlib", "pathlib._local"):  # Python 3.13's
        for name in ("PosixPath", "PurePosixPath", "Path"):
            known[f"{module}.{name}"] = pathlib.PurePosixPath
        for name in ("WindowsPath", "PureWindowsPath"):
            known[f"{module}.{name}"] = pathlib.PureWindowsPath
    array, scalar = np.zeros(1), np.float64(0)
    for core in ("core", "_core"):  # NumPy 1 and 2
        known[f"numpy.{core}.multiarray._reconstruct"] = array.__reduce__()[0]
        known[f"numpy.{core}.multiarray.scalar"] = scalar.__reduce__()[0]
        known[f"numpy.{core}.numeric._frombuffer"] = array.__reduce_ex__(5)[0]
    known |= {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype}
    for code in np.typecodes["All"].replace("O", ""):
        kind = type(np.dtype(code))
        known[f"numpy.dtypes.{kind.__name__}"] = kind
    for package in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        for module in ("parsing", "data"):
            known[f"{package}.utilities.{module}.AttributeDict"] = dict
    nodes = ("Any", "String", "Integer", "Float", "Boolean", "Path", "Bytes", "Enum", "InterpolationResult")
    for name in (
        "dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata",
        *(f"nodes.{node}Node" for node in nodes),
    ):  # fmt: skip
        known[f"omegaconf.{name}"] = argparse.Namespace
    known["mmengine.logging.history_buffer.HistoryBuffer"] = argparse.Namespace
    return known


_KNOWN = _known_types()
_REFUSED = re.compile(r"(?:GLOBAL |Cannot find class |unrecognized function |but got )(<[^>]*>|\S+)")


def load_torch_file(path: str) -> Any:
    """The content of a file of ``torch.save``, tensors on the CPU.

    Raises:
        UnpicklingError: a type in it is not known to be data; the message names it and says what to do.
        Exception: whatever a broken file makes of the reader.
    """
    try:
        with torch.serialization.safe_globals([(kind, name) for name, kind in _KNOWN.items()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise pickle.UnpicklingError(_explained(one_line(error))) from error


def load_pickle_file(path: str) -> Any:
    """The content of a pickle file of arrays, such as Detectron2's ``.pkl``; raises as :func:`load_torch_file`."""
    with open(path, "rb") as file:
        return _Unpickler(file, encoding="latin1").load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get(f"{module}.{name}")
        if known is None:
            raise pickle.UnpicklingError(_refusal(f"{module}.{name}"))
        return known


def _explained(text: str) -> str:
    """PyTorch's reason without its advice to read the file unsafely."""
    text = text.partition("WeightsUnpickler error: ")[2].partition(" Check the documentation")[0] or text
    if "TorchScript" in text:
        return "it is a TorchScript program; save its state_dict() and give that"
    match = _REFUSED.search(text)
    return _refusal(match[1].strip("<>")) if match else text


def _refusal(what: str) -> str:
    builtin = what if "." in what or " " in what else f"builtins.{what}"
    return (
        f"it holds a {builtin}, which is not known to be data and is not read, since reading could run code; where the "
        "file comes from, save its tensors alone: torch.save(model.state_dict(), 'weights.pth')"
    )
