"""Stages through torch.compile: switched on and off, the same step, no compilation for each number of groups."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from helpers import build, random_batch
from small_models import lively, small_config
from sqr.recollection import Plan
from test_decoder_memory import step

BATCH = ([(64, 96), (96, 64)], [2, 3])


@pytest.fixture
def without_code_generation(monkeypatch):
    """Graphs and their backward passes are traced, but run by PyTorch's own kernels: nothing takes minutes."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compile_module(self, backend="aot_eager", **options)
    )
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def test_it_can_be_switched_and_changes_no_name(monkeypatch):
    compiled = []

    def spy(self, **options):
        compiled.append(options)
        self._compiled_call_impl = lambda *args, **kwargs: self._call_impl(*args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "compile", spy)
    cfg = small_config("detr")
    names = list(build(cfg).state_dict())
    assert not compiled
    cfg.decoder.compile_stages = True
    decoder = build(cfg).decoder
    assert decoder.compile_stages and compiled == [{"dynamic": True}] * 4
    assert [f"decoder.{name}" for name in decoder.state_dict()] == [n for n in names if n.startswith("decoder.")]
    assert not copy.deepcopy(decoder).compile_stages, "a copy has plain stages, and says so"
    decoder.compile_stages = False
    assert not decoder.compile_stages and all(stage._compiled_call_impl is None for stage in decoder.stages)
    decoder.compile_stages = True
    assert decoder.compile_stages and len(compiled) == 8


def test_compiled_stages_are_the_same_step_for_any_number_of_groups(without_code_generation):
    cfg = small_config("detr", "selective", num_stages=3)
    cfg.decoder.stages.dropout = 0.0  # elsewhere our own kernels would draw other masks than the compiled ones
    model, batch = lively(build(cfg)).train(), random_batch(*BATCH)

    def run(plan, compiled, *options):
        model.decoder.plan, model.decoder.compile_stages = plan, compiled
        return step(model, batch, *options)

    for options in ((False, None), (True, 2)):
        for plan in (Plan.selective(3), Plan.dense(3), Plan.dense_recurrent(3)):  # 1 to 4 groups, in passes of 2 or all
            expected, found = run(plan, False, *options), run(plan, True, *options)
            torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
            noise = 1e-6 * max(gradient.norm() for gradient in expected[1].values())
            for name, gradient in expected[1].items():
                assert (found[1][name] - gradient).norm() <= 1e-4 * gradient.norm() + noise, name
    # DETR's first contents, which need no gradient; a group; several groups
    assert 1 <= counters["stats"]["unique_graphs"] <= 3 and not counters["graph_break"]
