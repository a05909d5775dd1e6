"""The loss benchmark: both implementations agree, a wrong one is found, the command prints and stores."""

import argparse
import json

import pytest
import torch

from sqr.benchmarks import loss as benchmark
from sqr.criterion import SetCriterion
from sqr.errors import UserError
from sqr.matcher import HungarianMatcher
from sqr.structures import StagePrediction


def arguments(*further):
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    small = ["--sets", "6", "32", "--queries", "12", "--classes", "7", "--objects", "3", "--repeats", "1"]
    return parser.parse_args([*small, "--device", "cpu", *further])


def test_rows_hold_both_implementations_and_can_be_stored(capsys):
    threads = torch.get_num_threads()
    report = benchmark.run(arguments())
    assert torch.get_num_threads() == threads
    found = [(row["classification"], row["sets"]) for row in report["results"]]
    assert found == [("focal", 6), ("focal", 32), ("softmax", 6), ("softmax", 32)]
    for row in report["results"]:
        assert set(row["ms"]) == {"matching", "matching, textbook", "loss", "loss, textbook"}
        assert all(value > 0 for value in row["ms"].values())
    assert report["arguments"]["sets"] == [6, 32] and report["machine"]["threads"] == 1
    assert "textbook / ours, matching" in capsys.readouterr().out
    json.dumps(report)


def test_matching_is_timed_with_its_concatenation(monkeypatch):
    calls = []
    cat = StagePrediction.cat
    monkeypatch.setattr(StagePrediction, "cat", staticmethod(lambda p: calls.append(len(p)) or cat(p)))
    benchmark.run(arguments())
    assert calls == [6] * 4 * 3  # four cases: checked, warmed up, timed once


def test_a_matcher_that_errs_is_not_timed(monkeypatch):
    call = HungarianMatcher.__call__
    monkeypatch.setattr(
        HungarianMatcher, "__call__", lambda self, problems: [m.roll(1, -1) for m in call(self, problems)]
    )
    with pytest.raises(UserError, match="the matches of set 1 differ"):
        benchmark.run(arguments())


def test_a_loss_that_errs_is_not_timed(monkeypatch):
    call = SetCriterion.forward
    monkeypatch.setattr(SetCriterion, "forward", lambda *args: {k: 1.01 * v for k, v in call(*args).items()})
    with pytest.raises(UserError, match=r"the loss is .*, the textbook's"):
        benchmark.run(arguments())


def test_a_cost_that_is_not_finite_names_its_set(monkeypatch):
    make = benchmark.make_case

    def broken(*args):
        predictions, targets = make(*args)
        with torch.no_grad():
            predictions[-1].boxes[1, -1] = float("nan")
        return predictions, targets

    monkeypatch.setattr(benchmark, "make_case", broken)
    with pytest.raises(FloatingPointError, match="set 6, query 0"):
        benchmark.run(arguments("--sets", "6"))
    with pytest.raises(FloatingPointError, match="set 32, query 0"):
        benchmark.run(arguments("--sets", "32"))
