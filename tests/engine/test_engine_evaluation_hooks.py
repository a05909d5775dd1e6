"""Best checkpoint and early stopping on any metric, the same in a run that was stopped and resumed."""

import json
import shutil

import pytest
import torch

from engine_toys import run_toy
from sqr.engine import EvaluationHistory

SCRIPT = ["dataloader.evaluator._target_=engine_toys.ScriptedEvaluator", "train.eval_period=2"]


def scripted(*values):
    return [*SCRIPT, f"+dataloader.evaluator.values=[{','.join(map(str, values))}]"]


def best_iteration(folder):
    return torch.load(folder / "model_best.pth", weights_only=True)["iteration"]


def history_of(folder):
    return [(e["iteration"], e["bbox/AP"]) for e in json.loads((folder / "evaluations.json").read_text())]


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [("max", (1, 5, 3, 5, 2, 4), 3), ("min", (4, 5, 3, 1, 2, 4), 7), ("max", (1, 2, 3, 4, 5, 6), 11)],
)
def test_best_checkpoint(tmp_path, mode, values, expected):
    assert run_toy(tmp_path, *scripted(*values), f"train.best_checkpoint.mode={mode}") == 0
    assert best_iteration(tmp_path) == expected
    assert history_of(tmp_path) == list(zip(range(1, 12, 2), map(float, values), strict=True))
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert torch.load(tmp_path / "model_best.pth", weights_only=True).keys() == {"model", "iteration", "about"}


def test_best_weights_are_those_of_the_best_evaluation(tmp_path):
    assert run_toy(tmp_path, *scripted(1, 1, 9, 1, 1, 1), "train.checkpointer.period=6") == 0
    best, then = (torch.load(tmp_path / f"{n}.pth", weights_only=True) for n in ("model_best", "model_0000005"))
    assert all(torch.equal(best["model"][k], v) for k, v in then["model"].items())


def test_a_resumed_run_knows_the_best_before_it(tmp_path):
    values = scripted(9, 1, 2, 3, 4, 5)
    assert run_toy(tmp_path, "+model.interrupt_at=5", *values) == 130
    assert run_toy(tmp_path, *values, resume=True) == 0
    assert best_iteration(tmp_path) == 1 and len(history_of(tmp_path)) == 6


def test_a_run_killed_in_an_evaluation_makes_up_for_it(tmp_path):
    values = [*scripted(1, 9, 2, 3, 4, 5), "train.checkpointer.period=4", "train.best_checkpoint.metric=bbox/AP"]
    assert run_toy(tmp_path / "whole", *values) == 0
    # as left by a kill between the checkpoint after iteration 3 and the end of the evaluation that follows it
    killed = tmp_path / "killed"
    killed.mkdir()
    shutil.copy(tmp_path / "whole" / "model_0000003.pth", killed)
    (killed / "last_checkpoint").write_text("model_0000003.pth")
    (killed / "evaluations.json").write_text(json.dumps([{"iteration": 1, "bbox/AP": 1.0}]))
    assert run_toy(killed, *values, resume=True) == 0
    assert history_of(killed) == history_of(tmp_path / "whole")
    assert best_iteration(killed) == best_iteration(tmp_path / "whole") == 3
    a, b = (torch.load(f / "model_final.pth", weights_only=True)["model"] for f in (killed, tmp_path / "whole"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_early_stopping_ends_saves_and_stays_ended(tmp_path):
    values = [*scripted(1, 5, 4, 5, 6, 7), "train.early_stopping.patience=2"]
    assert run_toy(tmp_path, *values) == 0
    assert history_of(tmp_path) == [(1, 1.0), (3, 5.0), (5, 4.0), (7, 5.0)]
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["iteration"] == final["trainer"]["iteration"] == 7
    log = (tmp_path / "log.txt").read_text()
    assert "Stopping early: bbox/AP was best after iteration 3 (5), 2 evaluations ago" in log
    assert run_toy(tmp_path, *values, resume=True) == 0
    assert history_of(tmp_path)[-1] == (7, 5.0)  # complete: nothing was trained
    assert run_toy(tmp_path, *values[:-1], "train.early_stopping.patience=3", resume=True) == 0
    assert history_of(tmp_path)[-1] == (11, 7.0) and best_iteration(tmp_path) == 11


def test_min_delta_and_nan(tmp_path):
    history = EvaluationHistory(tmp_path)
    for i, value in enumerate((1.0, float("nan"), 1.05, 1.2)):
        history.add(i, {"bbox": {"AP": value}})
    assert history.since_best("bbox/AP", "max") == (0, 1.2, 3)
    assert history.since_best("bbox/AP", "max", 0.1) == (0, 1.2, 3)
    assert history.since_best("bbox/AP", "max", 0.5) == (2, 1.0, 0)
    assert history.since_best("bbox/AP", "min") == (2, 1.0, 0)


def test_a_metric_that_is_not_there_warns_and_names_the_nearest(tmp_path):
    assert run_toy(tmp_path, "train.best_checkpoint.metric=bbox/APP", "train.early_stopping.patience=1",
                   "train.early_stopping.metric=loss") == 0  # fmt: skip
    log = (tmp_path / "log.txt").read_text()
    assert "train.best_checkpoint.metric: the evaluation gave no bbox/APP; did you mean bbox/AP?" in log
    assert "train.early_stopping.metric: the evaluation gave no loss; it gave bbox/AP, bbox/AP50" in log
    assert not (tmp_path / "model_best.pth").exists()


def test_a_new_run_in_an_old_folder_forgets_its_history(tmp_path):
    assert run_toy(tmp_path, *scripted(9, 9, 9, 9, 9, 9), "train.max_iter=4") == 0
    first = torch.load(tmp_path / "model_best.pth", weights_only=True)["model"]
    assert run_toy(tmp_path, *scripted(1, 1, 1, 1, 1, 1), "train.max_iter=4", "train.seed=7") == 0
    second = torch.load(tmp_path / "model_best.pth", weights_only=True)["model"]
    assert history_of(tmp_path) == [(1, 1.0), (3, 1.0)]
    assert not torch.equal(first["box_head.weight"], second["box_head.weight"])
