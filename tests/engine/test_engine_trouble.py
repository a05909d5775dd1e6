"""Ordinary trouble of a machine: the folder, the disk, the memory or another process goes away in mid-run."""

import logging
import shutil

import pytest
import torch
from torch import distributed

from engine_toys import ToyDetector, run_toy
from sqr.distributed import machine_failure
from sqr.engine.log_file import LogFile
from sqr.engine.run_folder import FolderCheck, FolderTakenError, locked
from sqr.errors import ProcessLostError, UserError


def test_a_removed_folder_ends_the_run_and_its_work_is_saved_in_a_new_one(tmp_path, capsys, monkeypatch):
    folder, forward = tmp_path / "run", ToyDetector.forward

    def removing(self, *args, **options):
        if self.training and self.steps == 5:
            shutil.rmtree(folder)
        return forward(self, *args, **options)

    monkeypatch.setattr(ToyDetector, "forward", removing)
    assert run_toy(folder) == 1
    error = capsys.readouterr().err
    assert "was removed or emptied during the run" in error and "The 6 iterations done are saved" in error
    assert torch.load(folder / "model_0000005.pth", weights_only=True)["iteration"] == 5


def test_a_folder_that_another_run_has_taken_is_left_to_it(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").touch()
    with locked(folder) as lock:
        check = FolderCheck(folder, lock)
        check.after_step()
        (folder / ".lock").rename(folder / "old")
        (folder / ".lock").touch()
        with pytest.raises(FolderTakenError, match="another run has taken it; nothing is saved"):
            check.after_step()


def test_weights_of_a_half_taken_step_are_not_saved(tmp_path, capsys, monkeypatch):
    step, calls = torch.optim.AdamW.step, []

    def failing(self, *args, **options):
        calls.append(1)
        if len(calls) == 8:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
            )
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", failing)
    assert run_toy(tmp_path) == 1
    error = capsys.readouterr().err
    assert "iteration 7: out of memory" in error and "dataloader.train.total_batch_size" in error
    assert "model_0000004.pth is the last checkpoint: resume with --resume" in error
    assert [path.name for path in tmp_path.glob("model_0*.pth")] == ["model_0000004.pth"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed."), "lower dataloader.train.num_workers"),
        (MemoryError(), "lower dataloader.train.total_batch_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "or raise train.accumulation_steps"),
        (RuntimeError("shape '[2]' is invalid"), None),
        (ValueError("out of memory"), None),
    ],
)
def test_what_the_machine_failed_of_is_told_from_what_the_program_did(error, expected):
    found = machine_failure(error)
    assert found is None if expected is None else isinstance(found, UserError) and expected in str(found)


def test_a_lost_process_is_one_only_where_there_are_several(monkeypatch):
    error = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [::1]:2")
    assert machine_failure(error) is None
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    assert isinstance(machine_failure(error), ProcessLostError)


def test_a_log_file_on_a_full_disk_warns_once_and_the_run_goes_on(tmp_path, capsys, monkeypatch):
    file = LogFile(tmp_path / "log.txt")

    def write(text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file.stream, "write", write, raising=False)
    for _ in range(2):
        file.handle(logging.LogRecord("sqr", logging.INFO, "", 0, "a line", None, None))
    error = capsys.readouterr().err
    assert error.count("No space left on device") == 1 and "log.txt cannot be written" in error


@pytest.mark.parametrize("value", ["nan", "-1"])
def test_a_norm_to_clip_to_is_a_number(tmp_path, capsys, value):
    assert run_toy(tmp_path, f"train.clip_grad.max_norm={value}") == 2
    assert f"train.clip_grad.max_norm={value}: must be a number, at least 0" in capsys.readouterr().err
