"""``benchmark.py train``: executions that agree, parts that add up, numbers that are stored."""

import json
import runpy
import sys
from argparse import ArgumentParser

import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from helpers import ROOT, build, random_batch
from small_models import DETECTORS, lively, small_config
from sqr.benchmarks import executions, train
from sqr.benchmarks.executions import running
from sqr.benchmarks.flops import HANDLES
from sqr.engine import UsageError, UserError
from sqr.layers import MultiScaleDeformableAttention

TOOL = ROOT / "projects" / "SQR" / "tools" / "benchmark.py"
QUICK = ["--config-file", "quick/deformable_detr_shapes", "--size", "64", "96", "--objects", "3", "--device", "cpu"]
QUICK += ["--repeats", "1"]
SMALLER = ["model.query_generator.num_queries=7", "model.decoder.stages.num_stages=3"]


def parsed(*arguments):
    parser = ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args([*QUICK, *arguments])


@pytest.mark.parametrize("detector", DETECTORS)
def test_all_executions_give_the_same_losses_and_gradients(detector):
    model = lively(build(small_config(detector, num_stages=3))).train()
    if detector == "adamixer":
        model.double()  # with random weights it multiplies rounding errors by about ten a stage
    batch = random_batch([(64, 96), (96, 64)], [2, 3])
    results = {}
    for execution in executions.EXECUTIONS:
        model.zero_grad()
        with running(model, "dense", execution):
            losses = model(batch)
        sum(losses.values()).backward()
        norms = {n: p.grad.norm() for n, p in model.named_parameters() if p.grad is not None}
        results[execution] = {name: value.detach() for name, value in losses.items()}, norms
    largest = max(results["folded"][1].values())
    for execution in results:
        torch.testing.assert_close(results[execution][0], results["folded"][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(results[execution][1], results["folded"][1], rtol=1e-3, atol=float(1e-6 * largest))


def test_a_plan_and_an_execution_hold_inside_their_context_alone():
    model = build(small_config("detr", "selective", num_stages=3))
    decoder = model.decoder
    with running(model, "dense", "repeat"):
        assert model.decoder is not decoder and model.decoder.active_plan.groups == (1, 2, 4)
    assert model.decoder is decoder and decoder.plan.groups == (1, 2, 3)
    with running(model, "dense", "checkpoint-4"):
        assert decoder.checkpoint_groups and decoder.max_groups_per_pass == 4
    assert not decoder.checkpoint_groups and decoder.max_groups_per_pass is None


def test_report_and_tables(capsys):
    variants = ["sequential", "selective", "selective-repeat"]
    report = train.run(parsed("--variants", *variants, "--flops", "--profile", "selective", "--memory", "--", *SMALLER))
    json.dumps(report)
    assert report["largest_difference"] < train.TOLERANCE and report["clock"] == "cpu_ms"
    for part, names in (("step", ["forward", "loss", "backward", "optimizer"]), ("decoder", ["forward", "loss"])):
        assert list(report[part]) == variants
        for times in report[part].values():
            assert set(names) <= times.keys()
            parts = sum(value["best_ms"] for name, value in times.items() if name != "total")
            assert 0 < parts <= times["total"]["best_ms"] * 1.01
    plain, sqr = report["flops"]["sequential"], report["flops"]["selective"]
    assert all(sqr[part] > plain[part] > 0 for part in ("forward", "step"))
    assert (
        2 < plain["step"] / plain["forward"] < 3.2
    )  # nothing is frozen, but some layers need no gradient of the input
    assert sum(row["share"] for row in report["profile"]) <= 1.001 and report["profile"][0]["seconds"] > 0
    output = capsys.readouterr().out
    assert output.count("selective-repeat") == 2 and "GFLOP" in output and "time / flops" in output


def test_scaling_reports_ratios(capsys):
    found = train.run(parsed("--scaling", "--parts", "--memory", "--variants", "selective", "--", *SMALLER))["scaling"]
    assert found["groups"] == {"sequential": 3, "selective": 6, "dense": 7}
    assert found["twice_the_queries"] > 0 and found["twice_the_groups"] > 0 and len(found["times"]) == 4
    assert "14 queries" in " ".join(found["times"]) and "scaling" in capsys.readouterr().out


def test_an_execution_that_differs_is_refused(monkeypatch):
    correct = executions.RepeatingDecoder.forward

    def wrong(self, initial, memory):
        predictions = correct(self, initial, memory)
        predictions[-1].logits = predictions[-1].logits.flip(1)
        predictions[-1].boxes = predictions[-1].boxes * 0.9
        return predictions

    monkeypatch.setattr(executions.RepeatingDecoder, "forward", wrong)
    with pytest.raises(UserError, match="losses of selective-repeat and selective differ"):
        train.run(parsed("--variants", "selective", "selective-repeat", "--", *SMALLER))


def test_weights_stay_where_they_are():
    subject = train.Subject.from_config(train.load_subject_config(parsed("--", *SMALLER)))
    before = {name: value.clone() for name, value in subject.model.named_parameters()}
    subject.step(random_batch([(64, 64)], [2]))
    assert all(p.grad is not None for p in subject.optimizer.param_groups[0]["params"])
    assert all(torch.equal(value, before[name]) for name, value in subject.model.named_parameters())
    assert subject.optimizer.state  # it did its work


def test_sampling_and_attention_are_counted():
    b, q, c, shapes = 2, 5, 32, [(4, 6), (2, 3)]
    module = MultiScaleDeformableAttention(dim=c, num_heads=4, num_levels=2, num_points=3).eval()
    inputs = (
        torch.rand(b, q, c),
        torch.rand(b, q, 2, 4),
        torch.rand(b, 30, c),
        torch.zeros(b, 30, dtype=torch.bool),
        torch.full((b, 2, 2), 0.2),
    )

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, query, reference, tokens, mask, pixels):
            attended = torch.nn.functional.scaled_dot_product_attention(query[:, None], query[:, None], query[:, None])
            return self.module(attended[:, 0], reference, tokens, mask, shapes, pixels)

    counts = FlopCountAnalysis(Both(), inputs).set_op_handle(**HANDLES).unsupported_ops_warnings(False)
    with torch.no_grad():
        by_operator = counts.by_operator()
    assert by_operator["attention"] == 2 * b * q * q * c
    if "sampling" in by_operator:  # the compiled operator; the reference's parts are counted one by one
        assert by_operator["sampling"] == 5 * b * q * 4 * 2 * 3 * (c // 4)


def test_command_stores_json_and_errors_are_one_line(tmp_path, monkeypatch, capsys):
    report = tmp_path / "train.json"
    variants = ["--variants", "sequential", "--parts", "decoder", "--memory", "decoder"]
    assert run_tool(monkeypatch, "train", *QUICK, *variants, "--json", report, "--", *SMALLER) == 0
    output = capsys.readouterr().out
    assert "peak memory" in output and f"stored in {report}" in output
    memory = json.loads(report.read_text())["memory"]["decoder"]["sequential"]
    assert 0 < memory["state"] < memory["peak"] < 1e9
    assert run_tool(monkeypatch, "train", *QUICK, "model.decoder.plam=dense") == 2
    assert capsys.readouterr().err.startswith("error: override")


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
    return runpy.run_path(str(TOOL))["main"]()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads 0"),
        (["--", "model.decoder.plam=dense"], "did you mean model.decoder.plan"),
        (["--config-file", "quick/nothing"], "no config 'quick/nothing'"),
    ],
)
def test_usage_errors(arguments, message):
    with pytest.raises(UsageError, match=message):
        train.run(parsed(*arguments))
