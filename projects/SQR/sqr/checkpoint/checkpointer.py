"""Saving and resuming runs: atomic writes, verified reading that executes nothing from the file."""

from __future__ import annotations

import math
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import Tensor

from ..distributed import machine_failure
from ..errors import NonFiniteError, UserError, one_line
from ..files import write_atomically
from ..finite import describe_not_finite, not_finite
from .integrity import check_archive, check_sizes, flat_tensors

_NUMBERED = re.compile(r"model_(\d{7,})\.pth")
_FINAL = "model_final.pth"


class CheckpointError(UserError):
    """A checkpoint cannot be written; the previous one is complete."""


class DivergedError(CheckpointError, NonFiniteError):
    """Weights or optimizer state are not finite and were not saved."""


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for the checkpoints of this project's runs.

    A file appears under its name only when it is complete, and ``last_checkpoint`` names it only
    afterwards: a full disk or a kill leaves the previous checkpoint intact. Tensors that are not finite are not saved.

    Attributes:
        saved_iteration: of the last checkpoint that this object wrote or resumed from.
        about: plain values stored with each checkpoint, so that the file suffices for prediction.
    """

    saved_iteration: int | None = None
    about: Mapping[str, Any] | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and tag it as the last checkpoint.

        Raises:
            DivergedError: weights or optimizer state are not finite.
            CheckpointError: the file cannot be written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        tensors = dict(flat_tensors(data))
        bad = not_finite(tensors)
        path = Path(self.save_dir) / f"{name}.pth"
        if bad:
            last = self.last_name()
            kept = f"{last} is the last good checkpoint" if last else "there is no good checkpoint"
            found = describe_not_finite(bad, len(tensors))
            raise DivergedError(f"the training has diverged: {found}; {path.name} is not written, {kept}")
        if self.about is not None:
            data["about"] = dict(self.about)
        self.logger.info("Saving checkpoint to %s", path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: torch.save(data, file))
            self.tag_last_checkpoint(path.name)
            self.saved_iteration = kwargs.get("iteration")
        except (OSError, RuntimeError) as error:  # torch.save turns a failed write into a RuntimeError
            if machine_failure(error) is not None:
                raise
            last = self.last_name()
            kept = f"{Path(self.save_dir) / last} is complete" if last else "there is no complete checkpoint yet"
            raise CheckpointError(
                f"cannot write the checkpoint {path}: {one_line(error)}; {kept}. Make room or change "
                "train.output_dir, then resume with --resume"
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = Path(self.save_dir) / "last_checkpoint"
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))

    def has_checkpoint(self) -> bool:
        return bool(self.candidates())

    def numbered(self, until: float = math.inf) -> list[str]:
        """Paths of the periodic checkpoints in the folder, oldest first, up to an iteration."""
        matches = (_NUMBERED.fullmatch(path.name) for path in Path(self.save_dir).glob("model_*.pth"))
        found = sorted((int(match[1]), match[0]) for match in matches if match)
        return [str(Path(self.save_dir) / name) for iteration, name in found if iteration <= until]

    def candidates(self) -> list[str]:
        """Paths from which a run may resume: the one in ``last_checkpoint``, then the others, newest first."""
        others = self.numbered()[::-1]
        final = Path(self.save_dir) / _FINAL
        if final.is_file():
            others.insert(0, str(final))
        last = self.last_name()
        first = [str(Path(self.save_dir) / last)] if last else []
        return list(dict.fromkeys(first + others))

    def resume(self) -> dict[str, Any]:
        """Load the newest good checkpoint of ``save_dir``: the model, which must be the same, and everything else.

        Files that are damaged, incomplete or not finite are reported and skipped.

        Returns:
            The unused content of the file.

        Raises:
            UserError: there is no good checkpoint, or it is of another model or optimizer.
        """
        candidates, reasons = self.candidates(), []
        if candidates and self.last_name() is None:
            self.logger.warning("%s names no checkpoint: the newest one is looked for", self._tag_path())
        for path in candidates:
            try:
                data_iteration, left = self._restore(path)
            except _Unusable as error:
                reasons.append(one_line(error))
                self.logger.warning("%s; trying the checkpoint before it", reasons[-1])
                continue
            chosen = comm.all_gather(Path(path).name)
            if len(set(chosen)) > 1:
                raise UserError(f"the processes do not read the same checkpoint: {', '.join(chosen)}")
            self.saved_iteration = data_iteration
            if reasons:
                self.logger.warning("Resuming from %s instead", path)
            return left
        raise UserError(
            f"cannot resume: {'; '.join(reasons)}. Start anew with another train.output_dir, or put a checkpoint there"
        )

    def withdraw(self, iteration: int) -> str | None:
        """Set aside checkpoints of an iteration whose weights turned out to be bad, if there is an earlier one.

        Returns:
            The name of the checkpoint that ``--resume`` then starts from.
        """
        before = self.numbered(until=iteration - 1)
        if self.save_to_disk and self.saved_iteration == iteration and before:
            for path in {*self.numbered(), str(Path(self.save_dir) / _FINAL)} - set(before):
                if os.path.isfile(path):
                    os.replace(path, f"{path}.diverged")
            self.tag_last_checkpoint(Path(before[-1]).name)
        return self.last_name()

    def _restore(self, path: str) -> tuple[int | None, dict[str, Any]]:
        """Load a file; returns its iteration and what was not used."""
        data = _verified(path, self.checkpointables)
        self.logger.info("Loading the checkpoint %s", path)
        self._load_model(data)
        for key, checkpointable in self.checkpointables.items():
            if key not in data:
                continue
            try:
                checkpointable.load_state_dict(data.pop(key))
            except UserError:
                raise
            except Exception as error:  # a state that torch.load can read but nothing can use
                text = f"cannot resume from {path}: its {key} is not readable ({one_line(error)[:200]})"
                raise _Unusable(text) from error
        return data.get("iteration"), data

    def _tag_path(self) -> Path:
        return Path(self.save_dir) / "last_checkpoint"

    def last_name(self) -> str | None:
        """The file that ``last_checkpoint`` names; None if it names no file of this folder."""
        try:
            name = self._tag_path().read_bytes()[:300].decode(errors="replace").strip()
        except OSError:
            return None
        return name if name and name.isprintable() and Path(name).name == name and name.endswith(".pth") else None

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        checkpoint.pop("matching_heuristics", None)
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
    """Writes ``model_best.pth``, which ``--resume`` never starts from: ``last_checkpoint`` is not changed."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass

    def stored_iteration(self, name: str) -> int | None:
        """The iteration of the weights in ``<name>.pth``; None without a readable file."""
        path = Path(self.save_dir) / f"{name}.pth"
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("iteration")
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None


class _Unusable(UserError):
    """A checkpoint that cannot be resumed from, though another may."""


def _verified(path: str, checkpointables: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a run's checkpoint, undamaged, complete and finite."""
    if not os.path.isfile(path):
        raise _Unusable(f"cannot resume from {path}: it does not exist")
    try:
        check_archive(path, path)
        data = torch.load(path, map_location="cpu", weights_only=True)
        problem = _problem(data, checkpointables)
        if not problem:
            tensors = dict(flat_tensors(data))
            check_sizes(tensors, path)
            bad = not_finite(tensors)
            problem = describe_not_finite(bad, len(tensors)) if bad else ""
    except Exception as error:  # a broken file can raise anything
        raise _Unusable(f"cannot resume from {path}: {one_line(error)[:300]}") from error
    if problem:
        raise _Unusable(f"cannot resume from {path}: {problem}")
    return data


def _problem(data: Any, checkpointables: Mapping[str, Any]) -> str:
    """What is missing in a checkpoint of a run; empty if nothing is."""
    if not isinstance(data, dict):
        return f"it holds a {type(data).__name__}, not a dict"
    model = data.get("model")
    if not isinstance(model, dict) or not all(isinstance(t, Tensor) for t in model.values()):
        return "its 'model' is not a dict of tensors"
    if "trainer" not in checkpointables:
        return ""
    trainer = data.get("trainer")
    if not isinstance(trainer, dict):
        return "it holds no state of a training, only weights (train.init_checkpoint takes it)"
    for key, least in (("iteration", 0), ("seed", 0), ("samples_seen", 0)):
        if type(trainer.get(key)) is not int or trainer[key] < least:
            return f"its trainer.{key}={str(trainer.get(key))[:50]} is not a whole number, at least {least}"
    optimizer = trainer.get("optimizer")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("param_groups"), list):
        return "it holds no state of an optimizer"
    return ""
