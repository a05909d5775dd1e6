"""``benchmark.py memory``: worst cases, rows, recommendations, measurements."""

import json
import subprocess
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from sqr.benchmarks import memory, peak
from sqr.benchmarks.prediction import Prediction
from sqr.benchmarks.subjects import load_subject_config
from sqr.errors import UsageError, UserError
from sqr.recollection import Plan

SIZE = (64, 96)
OBJECTS = 3
THREE_STAGES = "model.decoder.stages.num_stages=3"
SMALL = ("--size", "64", "96", "--objects", "3")


def config(name="quick/deformable_detr_shapes", *overrides):
    return load_subject_config(Namespace(config_file=name, overrides=list(overrides), device="cpu"))


def parsed(*arguments, config_file="quick/deformable_detr_shapes"):
    parser = ArgumentParser()
    memory.add_arguments(parser)
    return parser.parse_args(["--config-file", config_file, "--device", "cpu", *arguments])


class Toy:
    """Replaces a rehearsal: an image takes 100 bytes, half of it under autocast, a quarter checkpointed."""

    def __init__(self, *args, **kwargs):
        self.asked = []

    def step(self, plan, *, images, amp, execution, **_):
        self.asked.append(plan)
        peak = 10 + images * 100 // (1 + amp) // (4 if execution == "checkpoint-4" else 1)
        return Prediction(parameters=4, gradients=3, optimizer=6, peak=peak)


@pytest.mark.parametrize(
    ("name", "images", "overrides", "size"),
    [
        ("quick/deformable_detr_shapes", 16, [], (128, 128)),
        ("deformable_detr/deformable_detr_r50_50ep", 1, [], (800, 1333)),
        ("deformable_detr/deformable_detr_r50_50ep", 2, [], (1333, 1333)),
        ("deformable_detr/deformable_detr_r50_50ep", 2, ["dataloader.train.aspect_ratio_grouping=True"], (800, 1333)),
        ("adamixer/adamixer_r50_12ep", 2, [], (800, 1344)),  # groups by aspect ratio; levels of stride 32
        ("adamixer/adamixer_r50_12ep", 2, ["dataloader.train.aspect_ratio_grouping=False"], (1344, 1344)),
        ("quick/deformable_detr_folder", 2, ["data.max_size=200", "data.min_size_train=[150,100]"], (224, 224)),
    ],
)
def test_worst_padded_batch(name, images, overrides, size):
    assert memory.worst_case_size(config(name, *overrides), images) == size


def test_report_and_recommendation(capsys, monkeypatch):
    """A plan given as a mapping in the config has rows and is the one recommended for."""
    toy = Toy()
    monkeypatch.setattr(memory, "Rehearsal", lambda *args, **kwargs: toy)
    own = "model.decoder.plan={name:selective,start:2}"
    report = memory.run(parsed(*SMALL, "--batch", "4", "--budget", "1GB", "--num-gpus", "2", own))
    json.dumps(report)
    plans = list(dict.fromkeys(row["plan"] for row in report["rows"]))
    assert plans == ["sequential", "selective", "dense", "{name: selective,start: 2}"]
    assert Plan.selective(6, start=2) in toy.asked
    assert report["rows"][0] | {"predicted": 413, "per_image": 100, "beside": 3} == report["rows"][0]
    assert all(row["largest_batch"] > 100 for row in report["rows"])
    assert report["recommendation"].startswith(
        "1 GB, 4 images per GPU and step, plan {name: selective,start: 2}: fits as"
    )
    printed = capsys.readouterr().out
    assert report["recommendation"] in printed and "not confirmed" in printed


def test_bytes_beside_the_step(monkeypatch):
    monkeypatch.setattr(memory, "Rehearsal", Toy)
    report = memory.run(parsed(*SMALL, "--plans", "sequential", "--num-gpus", "2", "train.ema.enabled=True"))
    assert report["rows"][0]["beside"] == 4 + 3  # the average and the buckets


def test_only_the_plans_asked_for(monkeypatch):
    monkeypatch.setattr(memory, "Rehearsal", Toy)
    report = memory.run(parsed("--budget", "1GB", "--for", "cpu", *SMALL, "--plans", "dense"))
    assert {row["plan"] for row in report["rows"]} == {"dense"} and report["predicted_for"] == "cpu"
    assert "fits with model.decoder.plan=dense (" in report["recommendation"]


@pytest.mark.parametrize("name", ["h_deformable_detr_shapes", "adamixer_shapes"])
def test_default_objects_can_be_matched(name):
    """Hybrid matching repeats every object for a query set of its own, which has room for fewer of them."""
    cfg = config(f"quick/{name}", THREE_STAGES)
    objects = memory.most_objects(cfg)
    assert objects == (20 if name.startswith("h_") else cfg.model.query_generator.num_queries)
    memory.Rehearsal(cfg, device="cuda").step(Plan.sequential(3), size=(128, 128), images=1, objects=objects)


def test_settings_are_explicit_and_mildest_first():
    """Options of the config are a row of their own."""
    cfg = config("quick/adamixer_shapes", "model.decoder.max_groups_per_pass=1")
    settings = list(memory.settings(cfg, "dense"))
    assert [str(setting) for setting in settings] == [
        "the config's options", "", "amp", "checkpoint", "checkpoint-4", "amp checkpoint-4"
    ]  # fmt: skip
    plan = ["model.decoder.plan=dense"]
    assert settings[0].overrides(cfg) == plan
    assert settings[1].overrides(cfg) == [*plan, "model.decoder.max_groups_per_pass=null"]
    assert settings[-1].overrides(cfg) == [
        *plan,
        "model.decoder.checkpoint_groups=True",
        "model.decoder.max_groups_per_pass=4",
        "train.amp.enabled=True",
    ]
    cfg = config("quick/adamixer_shapes", "train.amp.enabled=True")
    assert [str(setting) for setting in memory.settings(cfg, "sequential")] == ["amp"]


def test_every_setting_saves_memory():
    cfg = config("quick/detr_shapes", "model.decoder.stages.num_stages=4")
    rehearsal = memory.Rehearsal(cfg, device="cuda")
    predict = partial(memory._predict, rehearsal, cfg, parsed(*SMALL), 3)
    peaks = [predict(setting, 2)[0].peak for setting in memory.settings(cfg, "dense")]
    plain, amp, checkpointed, in_passes, all_of_it = peaks
    assert all_of_it < in_passes < checkpointed < plain and all_of_it < amp < plain


@pytest.mark.parametrize(
    ("room", "how"),
    [
        (410, "fits as it is"),
        (409, "fits with train.accumulation_steps=2 ("),
        (110, "fits with train.accumulation_steps=4 ("),
        (109, "fits with train.amp.enabled=True train.accumulation_steps=4 ("),
        (59, "model.decoder.max_groups_per_pass=4 train.accumulation_steps=4 ("),
        (21, "does not fit, even one image at a time"),
    ],
)
def test_the_mildest_setting_is_recommended(room, how):
    cfg, args = config("quick/sqr_detr_shapes"), parsed(*SMALL)
    predict = partial(memory._predict, Toy(), cfg, args, 1)
    budget = room / (1 - memory.HEADROOM) + 0.1
    text = memory.recommend(cfg, predict, "selective", images=4, budget=budget)
    assert how in text


def test_a_batch_in_parts_is_smaller(monkeypatch):
    monkeypatch.setattr(memory, "Rehearsal", Toy)
    report = memory.run(parsed("--plans", "sequential", *SMALL, "train.accumulation_steps=4"))
    assert report["images"] == 4 and all(row["parts"] == 4 for row in report["rows"])


@pytest.mark.parametrize(
    ("code", "stderr", "failure"),
    [
        (-9, "", peak.DoesNotFit),
        (1, "RuntimeError: DefaultCPUAllocator: can't allocate memory", peak.DoesNotFit),
        (1, "error: no such config", UserError),
    ],
)
def test_a_step_that_does_not_fit_loses_only_its_own_row(code, stderr, failure, monkeypatch):
    failed = subprocess.CompletedProcess([], code, stdout="", stderr=stderr)
    monkeypatch.setattr(peak.subprocess, "run", lambda *args, **kwargs: failed)
    monkeypatch.setattr(memory, "Rehearsal", Toy)
    args = parsed("--measure", "--plans", "sequential", "--batch", "2", *SMALL)
    if failure is UserError:
        with pytest.raises(UserError, match="measuring the memory of sequential, folded: no such config"):
            memory.run(args)
        return
    assert [row["measured"] for row in memory.run(args)["rows"]] == [None, None]


def test_memory_of_the_gpu_that_measures(monkeypatch):
    """Every figure is of that device, not of the current one, and running out of memory is one row's answer."""
    asked = []
    for name in ("memory_allocated", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None: asked.append(device) or 0)
    optimizer = SimpleNamespace(zero_grad=lambda: None)
    subject = SimpleNamespace(model=SimpleNamespace(num_classes=3), step=lambda *a, **b: None, optimizer=optimizer)
    monkeypatch.setattr(peak, "load_subject_config", lambda args: SimpleNamespace(train={}))
    monkeypatch.setattr(peak.Subject, "from_config", staticmethod(lambda cfg, seed: subject))
    monkeypatch.setattr(peak, "running", lambda *args: nullcontext())
    monkeypatch.setattr(peak, "state_bytes", lambda subject: 5)
    what = peak.Measurement("", [], SIZE, 1, 1, "cuda:1", 1, 0, "selective")
    assert peak.measure(what) == peak.Peak(5, 0)
    assert asked == [torch.device("cuda:1")] * 3

    def out_of_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    subject.step = out_of_memory
    with pytest.raises(peak.DoesNotFit, match="CUDA out of memory"):
        peak.measure(what)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: memory.parse_bytes("24"), "--budget 24"),
        (lambda: memory.parse_bytes("1.2.3GB"), "--budget 1.2.3GB"),
        (lambda: memory.parse_bytes("24 parsecs"), "one of MB, GB, MiB, GiB"),
        (lambda: memory._batch_per_gpu(config(), 3), "total_batch_size=16 must be a multiple"),
        (lambda: memory.run(parsed("train.accumulation_steps=3")), "train.accumulation_steps=3 must divide the batch"),
        (lambda: memory.run(parsed("--measure", "--for", "cuda")), "cannot be compared with"),
    ],
)
def test_usage_errors(call, message):
    with pytest.raises(UsageError, match=message):
        call()
    assert memory.parse_bytes("24GB") == 24e9 and memory.parse_bytes("1.5 GiB") == 1.5 * 2**30
    assert memory._batch_per_gpu(config(), 4) == 4
