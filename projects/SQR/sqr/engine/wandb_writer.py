"""Writes numbers and pictures to Weights & Biases if ``train.wandb.enabled`` is set."""

from __future__ import annotations

import importlib
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage

from ..errors import UsageError
from .writers import NewScalars


def import_wandb() -> ModuleType:
    """Import the optional package ``wandb``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise UsageError(
            "train.wandb.enabled=True needs the package wandb: pip install wandb, or train.wandb.enabled=False"
        ) from None


class WandbWriter(EventWriter):
    """Writes scalars, smoothed as for TensorBoard, and pictures.

    Must come before TensorBoard's writer, which clears the pictures.

    The run's id is kept as ``OUTPUT/wandb_id.txt``, so that a resumed training continues the same curves.

    Args:
        output_dir: of the run.
        config: plain containers, shown with the run.
        project: of the run.
        name: of the run; the output folder's name when None.
        window_size: of the median.
    """

    def __init__(
        self,
        output_dir: str,
        *,
        config: dict[str, Any],
        project: str = "detectron2-sqr",
        name: str | None = None,
        window_size: int = 20,
    ):
        self._wandb = import_wandb()
        path = Path(output_dir) / "wandb_id.txt"
        if not path.exists():
            path.write_text(uuid.uuid4().hex[:12])
        name = name or Path(output_dir).resolve().name
        self._run = self._wandb.init(
            project=project, name=name, id=path.read_text().strip(), resume="allow", dir=output_dir, config=config
        )
        self._new_scalars = NewScalars(window_size)

    def write(self) -> None:
        by_iteration: dict[int, dict[str, Any]] = {}
        for name, value, iteration in self._new_scalars():
            by_iteration.setdefault(iteration, {})[name] = value
        for name, picture, iteration in get_event_storage()._vis_data:  # as Detectron2's own writer reads it
            by_iteration.setdefault(iteration, {})[name] = self._wandb.Image(picture.transpose(1, 2, 0))
        for iteration in sorted(by_iteration):
            self._run.log(by_iteration[iteration], step=iteration)

    def close(self) -> None:
        self._run.finish()
