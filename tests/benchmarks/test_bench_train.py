"""``benchmark.py train``: executions that agree, parts that add up, numbers that are stored."""

import contextlib
import json
import runpy
import sys
from argparse import ArgumentParser, ArgumentTypeError

import pytest
import torch

from helpers import ROOT, build, random_batch
from small_models import DETECTORS, lively, small_config
from sqr.benchmarks import executions, train
from sqr.benchmarks.executions import running
from sqr.benchmarks.flops import step_flops
from sqr.benchmarks.subjects import without_dropout
from sqr.benchmarks.variants import VARIANTS, Variant, multiples, variant_name
from sqr.errors import UsageError, UserError
from sqr.layers import AdaptiveMixing
from sqr.layers.attention import attention
from sqr.ops import use_reference

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
    for execution in set(executions.EXECUTIONS) - {"compile"}:  # which takes minutes; the decoder's tests have it
        model.zero_grad()
        torch.manual_seed(0)  # DINO's denoising draws its noise
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
    report = train.run(parsed("--variants", *variants, "--flops", "--memory", "--", *SMALLER))
    json.dumps(report)
    assert report["largest_difference"] < train.TOLERANCE and report["clock"] == "cpu_ms"
    for part, names in (("step", ["forward", "loss", "backward", "optimizer"]), ("decoder", ["forward", "loss"])):
        assert list(report[part]) == variants
        for times in report[part].values():
            assert set(names) <= times.keys()
            parts = sum(value["best_ms"] for name, value in times.items() if name not in ("total", "first call"))
            assert 0 < parts <= times["total"]["best_ms"] * 1.01
    assert report["flops"]["selective"] > report["flops"]["sequential"] > 0
    output = capsys.readouterr().out
    assert "compiling" not in output and "/ first of its plan" in output
    assert output.count("selective-repeat") == 2 and "GFLOP" in output and "time / flops" in output


def test_a_variant_is_a_plan_an_execution_and_a_precision():
    assert VARIANTS["selective"] == Variant("selective") and VARIANTS["dense-bf16"] == Variant(
        "dense", "folded", "bf16"
    )
    assert VARIANTS["sequential-checkpoint-4-bf16"] == Variant("sequential", "checkpoint-4", "bf16")
    assert not any(VARIANTS[name].compiled for name in train._DEFAULT)  # only what is asked for by name
    with pytest.raises(
        ArgumentTypeError, match=r"'selective-int8' is not PLAN\[-EXECUTION\]\[-PRECISION\]: sequential"
    ):
        variant_name("selective-int8")


def test_multiples_of_the_plain_plan_compare_like_with_like():
    found = multiples({"sequential": 2.0, "selective": 3.0, "selective-loop": 6.0})
    assert found["selective-loop"] == {"/ sequential": 3.0, "/ first of its plan": 2.0}
    found = multiples({"selective": 3.0, "sequential": 2.0, "selective-bf16": 1.5, "sequential-bf16": 1.0})
    assert found["selective-bf16"] == {"/ selective": 0.5, "/ first of its plan": 0.5, "/ sequential alike": 1.5}
    assert multiples({"sequential": 2.0, "dense": 3.0})["dense"] == {"/ sequential": 1.5}


def test_bf16_is_the_same_step_under_autocast(capsys):
    args = parsed("--variants", "sequential", "sequential-bf16", "--parts", "step", "--memory", "--", *SMALLER)
    subject = train.Subject.from_config(train.load_subject_config(args))
    dtypes = []
    subject.model.decoder.stages[0].ffn.linear1.register_forward_hook(lambda m, i, out: dtypes.append(out.dtype))
    for name in args.variants:
        with VARIANTS[name].of(subject):
            subject.step(random_batch([(64, 64)], [2]))
    assert dtypes == [torch.float32, torch.bfloat16] and subject.amp_dtype is None
    report = train.run(args)
    assert report["largest_difference"] is None  # float32 and bfloat16 are not held against each other
    assert capsys.readouterr().out.count("/ sequential alike") == 1
    args.overrides += VARIANTS["selective-bf16"].overrides  # what memory is measured with
    assert train.Subject.from_config(train.load_subject_config(args)).amp_dtype is torch.bfloat16


def test_compiled_variants_name_their_first_call(monkeypatch, capsys):
    """With a compiler that compiles nothing but notes whom it was asked for: the real one takes minutes."""
    calls, resets = [], []

    def compile_module(module, **options):
        module._compiled_call_impl = lambda *args: calls.append(module) or module._call_impl(*args)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_module)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    shared = ["--parts", "step", "--memory", "--", *SMALLER]
    train.run(parsed("--variants", "selective", "selective-loop", *shared))
    assert not calls and not resets and "compiling" not in capsys.readouterr().out
    report = train.run(parsed("--variants", "selective", "selective-compile", *shared))
    assert len(calls) == 3 * 3  # stages, times: the check, a first call, one that counts
    assert report["largest_difference"] < train.TOLERANCE and resets == [1]
    assert "first call, compiling" in capsys.readouterr().out


def test_float16_scales_the_loss_as_the_trainer_does(monkeypatch):
    half = ["train.amp.enabled=True", "train.amp.dtype=float16"]
    with pytest.raises(UserError, match="float16 needs a GPU"):
        train.Subject.from_config(train.load_subject_config(parsed("--", *SMALLER, *half)))
    subject = train.Subject.from_config(train.load_subject_config(parsed("--", *SMALLER)))
    assert not subject.grad_scaler.is_enabled()
    subject.grad_scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    seen = []
    step = subject.grad_scaler.step
    subject.grad_scaler.step = lambda optimizer: seen.append(parameter.grad.norm()) or step(optimizer)
    parameter = subject.model.decoder.stages[0].ffn.linear1.weight
    subject.max_norm = float("inf")
    subject.step(batch := random_batch([(64, 64)], [2]))
    parameter.grad = None
    with without_dropout(subject.model):
        sum(subject.model(batch).values()).backward()
    assert seen[0] == pytest.approx(float(parameter.grad.norm()), rel=0.5)  # unscaled again; dropout differs


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


def test_attention_is_counted_in_both_directions_of_a_step():
    query, key, value = (torch.rand(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    products = 2 * 3 * 5 * 7 * 8  # of one matrix product: there are two forward, five backward
    assert step_flops(lambda: attention(query, key, value)) == 2 * products
    assert step_flops(lambda: attention(query, key, value).sum().backward()) == 7 * products


def test_command_stores_json_and_errors_are_one_line(tmp_path, monkeypatch, capsys):
    report = tmp_path / "train.json"
    variants = ["--variants", "sequential-bf16", "--parts", "decoder", "--memory", "decoder"]
    assert run_tool(monkeypatch, "train", *QUICK, *variants, "--json", report, "--", *SMALLER) == 0
    output = capsys.readouterr().out
    assert "peak memory" in output and f"stored in {report}" in output
    stored = json.loads(report.read_text())
    assert stored["arguments"]["objects"] == 3 and stored["arguments"]["config_file"] == QUICK[1]
    assert stored["machine"]["threads"] == 1 and stored["machine"]["cores"] >= 1 and stored["clock"] == "cpu_ms"
    memory = stored["memory"]["decoder"]["sequential-bf16"]
    assert 0 < memory["state"] < 1e9 and 0 < memory["peak"] < 1e9
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


def test_mixing_is_counted_the_same_compiled_or_not():
    mixing = AdaptiveMixing(dim=16, in_points=4, out_points=8, num_feature_groups=2)
    query, sampled = torch.randn(1, 3, 16, requires_grad=True), torch.randn(1, 3, 2, 4, 8, requires_grad=True)
    found = []
    for context in (contextlib.nullcontext(), use_reference()):
        with context:
            forward = step_flops(lambda: mixing(query, sampled, mixing.generators()))
            found.append((forward, step_flops(lambda: mixing(query, sampled, mixing.generators()).sum().backward())))
    assert found[0] == found[1]
    generated, products = 16 * 2 * (8 * 8 + 8 * 4), 2 * 4 * 8 * (8 + 8)
    assert found[0][0] == 3 * (generated + products + 2 * 8 * 8 * 16)
