"""The loss benchmark: both implementations agree, a wrong one is found, the command prints and stores."""

import argparse
import json

import pytest
import torch

from sqr.benchmarks import loss as benchmark
from sqr.matcher import HungarianMatcher


def arguments():
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    small = ["--sets", "6", "32", "--queries", "12", "--classes", "7", "--objects", "3", "--repeats", "1"]
    return parser.parse_args([*small, "--device", "cpu"])


def test_rows_hold_both_implementations_and_can_be_stored(capsys):
    threads = torch.get_num_threads()
    report = benchmark.run(arguments())
    assert torch.get_num_threads() == threads
    assert [row["sets"] for row in report["results"]] == [6, 32]
    for row in report["results"]:
        assert set(row["ms"]) == {"matching", "matching, textbook", "loss", "loss, textbook"}
        assert all(value > 0 for value in row["ms"].values())
    assert capsys.readouterr().out.count("textbook") == 4
    json.dumps(report)


def test_a_matcher_that_errs_is_not_timed(monkeypatch):
    call = HungarianMatcher.__call__
    monkeypatch.setattr(
        HungarianMatcher, "__call__", lambda self, problems: [m.roll(1, -1) for m in call(self, problems)]
    )
    with pytest.raises(AssertionError, match="the matches differ"):
        benchmark.run(arguments())
