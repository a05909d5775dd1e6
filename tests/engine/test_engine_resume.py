"""A run that was stopped and resumed is the run that was not stopped, bit for bit."""

import shutil

import pytest
import torch

from engine_toys import run_toy

VARIANTS = {
    "no_workers": ["dataloader.train.num_workers=0"],
    "workers": ["dataloader.train.num_workers=2"],
    "grouped": ["dataloader.train.num_workers=2", "+dataloader.train.aspect_ratio_grouping=True"],
    "accumulated_with_ema": ["train.accumulation_steps=2", "train.ema.enabled=True", "train.ema.warmup_iters=5"],
}
INTERRUPT_AT = {"accumulated_with_ema": 13}  # the first half of iteration 7's batch; otherwise the forward of number 7


def load(path):
    """A checkpoint without ``about``, which names the run's folder."""
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint.pop("about").keys() >= {"config", "class_names"}
    return checkpoint


def assert_same(a, b, where=""):
    """Equality of nested checkpoints to the last bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """One complete run of each variant, made on first use."""
    made = {}

    def run(variant):
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp(variant)
            assert run_toy(made[variant], *VARIANTS[variant]) == 0
        return made[variant]

    return run


@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_and_resumed_run_is_the_same_run(variant, uninterrupted, tmp_path, capsys):
    whole = uninterrupted(variant)
    options = [*VARIANTS[variant]]
    code = run_toy(tmp_path, f"+model.interrupt_at={INTERRUPT_AT.get(variant, 7)}", *options)
    assert code == 130
    assert (
        "SIGINT after 7 of 12 iterations; saved. Resume with the same command and --resume" in capsys.readouterr().err
    )
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000006.pth"
    assert run_toy(tmp_path, *options, resume=True) == 0
    assert_same(load(whole / "model_final.pth"), load(tmp_path / "model_final.pth"))


def test_resume_from_a_periodic_checkpoint_is_the_same_run(uninterrupted, tmp_path):
    # As after a kill: evaluations ran between the checkpoint and the end, and drew random numbers.
    whole = uninterrupted("no_workers")
    shutil.copy(whole / "model_0000004.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    assert run_toy(tmp_path, resume=True) == 0
    assert_same(load(whole / "model_final.pth"), load(tmp_path / "model_final.pth"))


def test_number_of_workers_changes_nothing(uninterrupted):
    a, b = uninterrupted("no_workers"), uninterrupted("workers")
    assert_same(load(a / "model_final.pth"), load(b / "model_final.pth"))


def test_evaluations_change_nothing(uninterrupted, tmp_path):
    assert run_toy(tmp_path, "train.eval_period=1") == 0
    assert_same(load(uninterrupted("no_workers") / "model_final.pth"), load(tmp_path / "model_final.pth"))


def test_another_seed_is_another_run_and_a_checkpoint_keeps_its_seed(uninterrupted, tmp_path):
    whole = uninterrupted("no_workers")
    assert run_toy(tmp_path / "other", "train.seed=43") == 0
    a, b = load(whole / "model_final.pth"), load(tmp_path / "other" / "model_final.pth")
    assert not torch.equal(a["model"]["box_head.weight"], b["model"]["box_head.weight"])
    shutil.copy(whole / "model_0000004.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    assert run_toy(tmp_path, "train.seed=43", resume=True) == 0
    assert_same(a, load(tmp_path / "model_final.pth"))


def test_resume_without_a_checkpoint_starts_and_after_the_end_only_evaluates(uninterrupted, tmp_path):
    assert run_toy(tmp_path, resume=True) == 0
    final = load(tmp_path / "model_final.pth")
    assert_same(load(uninterrupted("no_workers") / "model_final.pth"), final)
    stamp = (tmp_path / "model_final.pth").stat().st_mtime_ns
    assert run_toy(tmp_path, resume=True) == 0
    assert (tmp_path / "model_final.pth").stat().st_mtime_ns == stamp


def test_resume_with_another_model_is_one_line(uninterrupted, tmp_path, capsys):
    shutil.copy(uninterrupted("no_workers") / "model_0000004.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    assert run_toy(tmp_path, "+model.channels=5", resume=True) == 1
    error = capsys.readouterr().err.strip()
    assert "the checkpoint is of another model" in error and "backbone.weight is (6, 3) in the file" in error
    assert "\n" not in error[error.index("error:") :]
