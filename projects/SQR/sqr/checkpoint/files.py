"""Checkpoint files of any origin. Nothing in a file is executed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig
from torch import Tensor

from ..catalog import SCHEME, get_checkpoint_classes, get_checkpoint_url
from ..config.yaml_files import parse_yaml_config
from ..errors import UserError, as_user_error, one_line
from ..files import write_atomically
from ..runs import EMA
from .backbones import is_library_address, read_library_weights
from .integrity import check_archive, check_sizes, digest
from .unpickling import load_pickle_file, load_torch_file

SAFETENSORS = ".safetensors"
_DIGEST = "sqr_sha256"
_HOLDERS = ("model", "state_dict", "model_state_dict", "blobs", "module", "net", "network", "weights", "params")
_AVERAGES = ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model")
_DEEPEST = 4  # holders in one another
_NO_WEIGHT = re.compile(r".*_momentum|n_averaged")  # of Caffe2's optimizer; of torch's AveragedModel


@dataclass
class Weights:
    """The tensors of a checkpoint, without the prefixes of DistributedDataParallel and ``torch.compile``.

    Attributes:
        tensors: by name.
        loose: names are parts of the model's (``res2.0.conv1.weight``).
        caffe2: names are in Caffe2's spelling.
        class_names: of the classes of its heads, where the file says.
    """

    tensors: dict[str, Tensor]
    loose: bool = False
    caffe2: bool = False
    class_names: tuple[str, ...] | None = None


def read_weights(source: str, *, name: str = "", hint: str = "") -> Weights:
    """Read a checkpoint's weights: ``.pth`` or ``.bin``, ``.safetensors``, or Detectron2's ``.pkl``.

    Args:
        source: path or URL (``detectron2://``, ``https://``); ``zoo://NAME``, a checkpoint of the model zoo;
            ``timm://NAME`` or ``torchvision://NAME``, a backbone (:mod:`sqr.checkpoint.backbones`); with ``@ema`` at
            its end, the averaged weights of a checkpoint that a training with ``train.ema.enabled`` wrote.
        name: of the file in errors; the source when empty.
        hint: what else to do if the file does not exist.

    Raises:
        UserError: no such file, not readable, not fetchable, or no tensors in it.
    """
    name = name or source
    if is_library_address(source):
        return Weights(read_library_weights(source))
    address = source.removesuffix(EMA)
    path = _fetch(address, name, hint)
    data = _read(path, name)
    class_names = _class_names(data) or get_checkpoint_classes(path)
    if address != source:
        averages = [x for key in _AVERAGES if isinstance(x := data.get(key), dict)] if isinstance(data, dict) else []
        if not averages:
            raise UserError(f"{name}: the file holds no EMA weights (train.ema.enabled writes them); leave out {EMA}")
        data = averages[0]
    weights = _unpack(data, name)
    weights.class_names = class_names
    return weights


def read_about(source: str) -> dict[str, Any]:
    """What a training stored with the weights: ``config`` (YAML) and ``class_names``.

    Args:
        source: path or address of a ``.pth`` file, possibly with ``@ema``.

    Raises:
        UserError: not readable, or not written by a training of this package.
    """
    data = _read(_fetch(source.removesuffix(EMA), source, ""), source)
    about = data.get("about") if isinstance(data, dict) else None
    if not isinstance(about, dict) or not isinstance(about.get("config"), str):
        raise UserError(f"{source} does not say which model it is of: name the config too")
    return about


def stored_config(checkpoint: str) -> DictConfig:
    """The config in a checkpoint that a training wrote, read as data.

    Args:
        checkpoint: path or address of a ``.pth`` file, possibly with ``@ema``.

    Raises:
        UserError: as :func:`read_about`, or the config calls what a YAML config may not.
    """
    return parse_yaml_config(read_about(checkpoint)["config"], checkpoint)


def _fetch(source: str, name: str, hint: str) -> str:
    if source.startswith(SCHEME):
        with as_user_error(ValueError, prefix=f"{name}: "):
            source = get_checkpoint_url(source.removeprefix(SCHEME))
    is_url = "://" in source
    try:
        path = PathManager.get_local_path(source)
    except Exception as error:  # the handler of the URL's scheme can raise anything
        also = f", or {hint}" if hint else ""
        raise UserError(f"{name} cannot be fetched ({one_line(error)}); give a local path{also}") from error
    if not os.path.isfile(path):
        raise UserError(f"{name}: no such file{'' if is_url or not hint else f'; {hint}'}")
    return path


def _read(path: str, name: str) -> Any:
    if path.endswith(SAFETENSORS):
        safetensors = _safetensors(name)
        with as_user_error(
            OSError, ValueError, KeyError, safetensors.SafetensorError, prefix=f"{name} is not a readable checkpoint: "
        ):
            tensors = safetensors.torch.load_file(path)
            with safetensors.safe_open(path, framework="pt") as file:
                expected = (file.metadata() or {}).get(_DIGEST)
        if expected is not None and digest(tensors) != expected:
            raise UserError(f"{name} is not a readable checkpoint: it is damaged, its checksum differs")
        return tensors
    try:
        if path.endswith(".pkl"):
            return load_pickle_file(path)
        check_archive(path, name)
        return load_torch_file(path)
    except UserError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise UserError(f"{name} is not a readable checkpoint: {one_line(error)[:300]}") from error


def write_weights(
    path: str,
    tensors: Mapping[str, Tensor],
    *,
    nesting: str = "model",
    class_names: Sequence[str] | None = None,
) -> None:
    """Write weights that :func:`read_weights` reads, atomically; ``.safetensors`` by the name.

    Args:
        path: of the file.
        tensors: by name.
        nesting: the key of the outer dictionary, which ``.safetensors`` files do not have; none if empty.
        class_names: of the classes of its heads, stored where there is an outer dictionary.

    Raises:
        UserError: the file cannot be written, or ``safetensors`` is not installed.
    """
    if path.endswith(SAFETENSORS):
        safetensors = _safetensors(path)
        separate = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
        content = safetensors.torch.save(separate, metadata={"format": "pt", _DIGEST: digest(separate)})
        write = partial(_write_bytes, content)
    else:
        about = {} if class_names is None else {"about": {"class_names": list(class_names)}}
        write = partial(torch.save, {nesting: dict(tensors)} | about if nesting else dict(tensors))
    with as_user_error(OSError, RuntimeError, prefix=f"cannot write {path}: "):
        write_atomically(Path(path), write)


def _write_bytes(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _safetensors(name: str) -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError(f"{name} is a {SAFETENSORS} file: pip install safetensors, or give a .pth file") from error
    return safetensors


def _tensor(value: Tensor | np.ndarray, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    with as_user_error(TypeError, ValueError, prefix=f"{name}: "):
        return torch.from_numpy(value)


def _unpack(data: Any, name: str) -> Weights:
    if not isinstance(data, dict):
        raise UserError(f"{name} holds a {type(data).__name__}, not a dict of tensors")
    loose = bool(data.get("matching_heuristics")) or "blobs" in data
    caffe2 = data.get("__author__") == "Caffe2" or "blobs" in data
    for _ in range(_DEEPEST):
        data = next((data[key] for key in (*_HOLDERS, *_AVERAGES) if isinstance(data.get(key), dict)), data)
    tensors: dict[str, Tensor] = {}
    for key, value in data.items():
        if not isinstance(key, str) or not isinstance(value, (Tensor, np.ndarray)) or _NO_WEIGHT.fullmatch(key):
            continue
        own = re.sub(r"^(module\.)+", "", key.replace("_orig_mod.", ""))
        if own in tensors:
            raise UserError(f"{name} holds {own} twice, with and without a prefix")
        tensors[own] = _tensor(value, f"{name}: {key}")
    if not tensors:
        raise UserError(f"{name} holds no tensors")
    check_sizes(tensors, name)
    return Weights(tensors, loose, caffe2)


def _class_names(data: Any) -> tuple[str, ...] | None:
    """What a training of this package or of mmdetection says of its classes."""
    if not isinstance(data, dict):
        return None
    about, meta = (data.get(key) if isinstance(data.get(key), dict) else {} for key in ("about", "meta"))
    dataset = meta.get("dataset_meta") if isinstance(meta.get("dataset_meta"), dict) else {}
    for names in (about.get("class_names"), dataset.get("classes"), dataset.get("CLASSES"), meta.get("CLASSES")):
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return None
