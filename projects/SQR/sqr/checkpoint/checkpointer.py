"""Saving and resuming runs: atomic writes, and reading that executes nothing from the file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from ..errors import UserError, one_line
from ..files import write_atomically


class CheckpointError(UserError):
    """A checkpoint cannot be written; the one before is complete."""


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for the checkpoints of this project's runs.

    A file appears under its name only when it is complete, and ``last_checkpoint`` names it only
    afterwards: a full disk or a kill leaves the previous checkpoint in force.

    Attributes:
        saved_iteration: of the last checkpoint that this object wrote.
    """

    saved_iteration: int | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and tag it as the last checkpoint.

        Raises:
            CheckpointError: the file cannot be written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        try:
            write_atomically(path, lambda file: torch.save(data, file))
            self.tag_last_checkpoint(path.name)
            self.saved_iteration = kwargs.get("iteration")
        except (OSError, RuntimeError) as error:  # RuntimeError: what torch.save makes of a failed write
            last = self.get_checkpoint_file()
            kept = f"{last} is complete" if last else "there is no complete checkpoint yet"
            raise CheckpointError(
                f"cannot write the checkpoint {path}: {one_line(error)}; {kept}. Make room or change "
                "train.output_dir, then go on with --resume"
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = Path(self.save_dir) / "last_checkpoint"
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))

    def resume(self) -> dict[str, Any]:
        """Load the last checkpoint of ``save_dir``: the model, which must be the same one, and all else.

        Raises:
            UserError: the file is missing or broken, or is of another model.
        """
        path = self.get_checkpoint_file()
        if not os.path.isfile(path):
            raise UserError(f"{self.save_dir}/last_checkpoint names {path}, which does not exist")
        try:
            return self.load(path)
        except (OSError, RuntimeError, KeyError, EOFError) as error:
            raise UserError(f"cannot resume from {path}: {one_line(error)}") from error

    def _torch_load(self, f: str) -> dict[str, Any]:
        return torch.load(f, map_location="cpu", weights_only=True)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        wrong = [f"{key} is {a} in the file and {b} in the model" for key, a, b in incompatible.incorrect_shapes]
        wrong += [f"{key} is missing in the file" for key in incompatible.missing_keys]
        wrong += [f"{key} is not in the model" for key in incompatible.unexpected_keys]
        if wrong:
            raise UserError(
                f"the checkpoint is of another model ({len(wrong)} tensors differ: {'; '.join(wrong[:3])}); "
                "use the config it was trained with, or start a new train.output_dir"
            )
        return incompatible


class BestCheckpointer(Checkpointer):
    """Writes ``model_best.pth``, which ``--resume`` never starts from: ``last_checkpoint`` stays what it is."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass

    def stored_iteration(self, name: str) -> int | None:
        """The iteration whose weights ``<name>.pth`` holds; None without a readable file."""
        path = Path(self.save_dir) / f"{name}.pth"
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("iteration")
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
