"""Interleaved timing: which device is waited for and when, and that totals are of undisturbed calls."""

import time

import pytest
import torch

from sqr.benchmarks.timing import Laps, interleaved, interleaved_parts


@pytest.fixture
def waits(monkeypatch):
    """The devices that were synchronised, without there being any."""
    devices = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: devices.append(device))
    return devices


def test_the_device_that_is_named_is_waited_for(waits):
    interleaved({"a": lambda: None}, device="cuda:1", repeats=2)
    assert waits == ["cuda:1"] * 6  # around each of three calls
    interleaved({"a": lambda: None}, device="cpu")
    assert len(waits) == 6


def test_on_a_gpu_nothing_waits_inside_the_call_whose_total_counts(waits):
    def call(laps: Laps) -> None:
        before = len(waits)
        for name in ("forward", "backward"):
            laps(name)
        inside.append(len(waits) - before)

    inside = []
    times = interleaved_parts({"a": call}, device="cuda:1", repeats=1, warmup=1)
    assert inside == [0, 2, 0, 2]  # a turn is a call for the total and one for the parts
    assert set(times["a"]) == {"forward", "backward", "total", "first call"} and "cpu_ms" not in times["a"]["total"]


def test_on_a_cpu_one_call_gives_parts_and_total():
    calls = []

    def call(laps: Laps) -> None:
        calls.append(1)
        time.sleep(0.05 if len(calls) == 1 else 0.01)
        laps("sleep")

    times = interleaved_parts({"a": call}, repeats=3, warmup=1)
    assert len(calls) == 4
    assert 10 <= times["a"]["sleep"]["best_ms"] <= times["a"]["total"]["best_ms"] < times["a"]["first call"]["best_ms"]
    assert times["a"]["first call"]["best_ms"] >= 50
