"""What a YAML config, which is data and not code, may call.

``_target_`` names in YAML must lie in the model, data, optimizer and evaluation modules of this package, Detectron2,
PyTorch and torchvision, or in a package that the user names with ``--allow-target`` (or the environment variable
``SQR_ALLOW_TARGETS``). Some modules of these packages are left out because calling them runs code from a file or a
string (``torch.load``, ``torch.hub``, ``detectron2.utils.registry.locate``). A ``.py`` config is code
and is not checked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from detectron2.utils.registry import locate

from ..errors import UsageError, one_line

VARIABLE = "SQR_ALLOW_TARGETS"
"""Environment variable with further packages, modules or names, separated by commas; child processes inherit it."""

_PACKAGES = ("sqr", "detectron2", "torch", "torchvision", "fvcore")

# Modules that *define* what may be called, with their submodules.
_MODULES = (
    *(f"sqr.{name}" for name in ("adapters", "classification", "criterion", "data", "decoder", "detectors", "layers")),
    *(f"sqr.{name}" for name in ("matcher", "meta_arch", "postprocessing", "recollection", "structures", "targets")),
    "sqr.engine.optim", "sqr.engine.train_loader", "sqr.evaluation",
    *(f"detectron2.{name}" for name in ("data", "evaluation", "layers", "modeling", "solver", "structures")),
    "torch.nn", "torch.optim", "torch.utils.data.dataloader", "torch.utils.data.dataset", "torch.utils.data.sampler",
    "torchvision.models", "torchvision.ops", "torchvision.transforms",
    "fvcore.common.param_scheduler",
)  # fmt: skip
_NOT_MODULES = ("sqr.data.check", "sqr.data.shapes", "detectron2.data.datasets")  # they write files


def allow_targets(*names: str) -> None:
    """Allow YAML configs to call these packages, modules or functions, in this process and its children."""
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*_allowed_by_user(), *names]))


def trusted_target(name: Any, where: str) -> Any:
    """Resolve a name in a YAML config to its callable.

    Args:
        name: as written there.
        where: file and key, for the error.

    Raises:
        UsageError: it is not a dotted name, it does not exist, it cannot be called, or a YAML file may not call it.
    """
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{where}: {str(name)[:200]!r} is not the dotted name of a function or class")
    by_user = _is_in(name, _allowed_by_user())
    if not by_user and (not _is_in(name, _PACKAGES) or "__" in name):
        raise _refused(name, where)
    try:
        target = locate(name)
    except Exception as error:  # whatever importing a module raises
        raise UsageError(f"{where}: {name} cannot be imported ({one_line(error)[:200]})") from error
    if not callable(target):
        raise UsageError(f"{where}: {name} is not a function or class")
    module = str(getattr(target, "__module__", None))
    if not by_user and (not _is_in(module, _MODULES) or _is_in(module, _NOT_MODULES)):
        raise _refused(name, where)
    return target


def _refused(name: str, where: str) -> UsageError:
    return UsageError(
        f"{where}: a YAML config is data and may not call {name}. If you know this code, allow it: "
        f"--allow-target {name} (or {VARIABLE}={name})"
    )


def _allowed_by_user() -> list[str]:
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def _is_in(name: str, places: Sequence[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)
