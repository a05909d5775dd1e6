"""``benchmark.py memory``: worst cases, rows, recommendations, sizes of models and files."""

import io
import json
import subprocess
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import instantiate

from sqr.benchmarks import fitting, memory, peak
from sqr.benchmarks.model_size import state_dict_bytes
from sqr.benchmarks.prediction import Prediction, Rehearsal
from sqr.benchmarks.subjects import Subject, load_subject_config
from sqr.errors import UsageError, UserError

SIZE = (64, 96)
OBJECTS = 3
THREE_STAGES = "model.decoder.stages.num_stages=3"
SMALL = ("--size", "64", "96", "--objects", "3")
PLAIN = fitting.Setting("folded", (), False)


def config(name="quick/deformable_detr_shapes", *overrides):
    return load_subject_config(Namespace(config_file=name, overrides=list(overrides), device="cpu"))


def parsed(*arguments, config_file="quick/deformable_detr_shapes"):
    parser = ArgumentParser()
    memory.add_arguments(parser)
    return parser.parse_args(["--config-file", config_file, "--device", "cpu", *arguments])


class Toy:
    """In a rehearsal's place: an image takes 100 bytes, half of it under autocast, a quarter checkpointed."""

    many = 32

    def __init__(self, *args, **kwargs):
        self.asked = []

    def step(self, *, images, amp, execution, plan, **_):
        self.asked.append(plan)
        peak = 10 + images * 100 // (1 + amp) // (4 if execution == "checkpoint-4" else 1)
        return Prediction(parameters=4, gradients=3, optimizer=6, average=0, buckets=3, peak=peak)


def test_the_largest_batch_is_the_largest():
    cfg = config("quick/sqr_deformable_detr_shapes", THREE_STAGES)
    rehearsal = Rehearsal(cfg)
    shape = {"size": SIZE, "objects": OBJECTS}
    row = fitting.predict_row(rehearsal, "selective", PLAIN, images=4, budget=0.0, **shape)
    for images in (4, 60):
        peak = rehearsal.step(images=images, plan="selective", **shape).peak
        assert row.largest_batch(1.002 * peak) == images and row.largest_batch(0.998 * peak) == images - 1
    assert row.largest_batch(row.steps[1].peak - 1) == 0


@pytest.mark.parametrize(
    ("name", "images", "overrides", "size"),
    [
        ("quick/deformable_detr_shapes", 16, [], (128, 128)),
        ("deformable_detr/deformable_detr_r50_50ep", 1, [], (800, 1333)),
        ("deformable_detr/deformable_detr_r50_50ep", 2, [], (1333, 1333)),
        ("deformable_detr/deformable_detr_r50_50ep", 2, ["dataloader.train.aspect_ratio_grouping=True"], (800, 1333)),
        ("adamixer/adamixer_r50_12ep", 2, [], (1344, 1344)),  # levels of stride 32
        ("quick/deformable_detr_folder", 2, ["data.max_size=200", "data.min_size_train=[150,100]"], (200, 200)),
    ],
)
def test_worst_padded_batch(name, images, overrides, size):
    assert memory.worst_case_size(config(name, *overrides), images) == size


def test_report_and_recommendation(capsys, monkeypatch):
    """A plan without a name is the config's own all the same: it has rows and is what is recommended for."""
    toy = Toy()
    monkeypatch.setattr(memory, "Rehearsal", lambda *args, **kwargs: toy)
    own = "model.decoder.plan={name:selective,start:2}"
    report = memory.run(parsed(*SMALL, "--batch", "4", "--budget", "1GB", "--num-gpus", "2", own))
    json.dumps(report)
    plans = list(dict.fromkeys(row["plan"] for row in report["rows"]))
    assert plans == ["sequential", "{name:selective,start:2}", "selective", "dense"]
    assert {"name": "selective", "start": 2} in toy.asked
    assert report["rows"][0] | {"predicted": 410, "per_image": 100} == report["rows"][0]
    assert all(row["largest_batch"] > 100 for row in report["rows"])
    assert report["recommendation"].startswith("1 GB, 4 images a GPU and step, plan {name:selective,start:2}: fits as")
    printed = capsys.readouterr().out
    assert report["recommendation"] in printed
    assert "no GPU has confirmed" in printed and "DistributedDataParallel's buckets 0.00 GB" in printed


def test_only_the_plans_asked_for(monkeypatch):
    monkeypatch.setattr(memory, "Rehearsal", Toy)
    report = memory.run(parsed("--budget", "1GB", "--for", "cpu", *SMALL, "--plans", "dense"))
    assert {row["plan"] for row in report["rows"]} == {"dense"} and report["predicted_for"] == "cpu"
    assert "fits with model.decoder.plan=dense (" in report["recommendation"]


@pytest.mark.parametrize("name", ["h_deformable_detr_shapes", "adamixer_shapes"])
def test_default_objects_can_be_matched(name):
    """Hybrid matching repeats every object for a set of its own, which has room for fewer of them."""
    args = parsed("--plans", "sequential", "--size", "128", "128", THREE_STAGES, config_file=f"quick/{name}")
    report = memory.run(args)
    cfg = config(f"quick/{name}")
    assert report["objects"] == (20 if name.startswith("h_") else cfg.model.query_generator.num_queries)


def test_settings_are_explicit_and_mildest_first():
    """An option in the config is a row of its own, and does not slip into the plain one."""
    cfg = config("quick/adamixer_shapes", "model.decoder.max_groups_per_pass=1")
    settings = fitting.settings(cfg, "dense")
    assert [str(setting) for setting in settings] == [
        "max_groups_per_pass=1",
        "",
        "amp",
        "checkpoint_groups=True",
        "checkpoint_groups=True max_groups_per_pass=4",
        "amp checkpoint_groups=True max_groups_per_pass=4",
    ]
    assert settings[0].overrides(cfg) == []
    assert settings[1].overrides(cfg) == ["model.decoder.max_groups_per_pass=null"]
    assert settings[-1].overrides(cfg) == [
        "model.decoder.checkpoint_groups=True",
        "model.decoder.max_groups_per_pass=4",
        "train.amp.enabled=True",
    ]
    assert [str(setting) for setting in fitting.settings(cfg, "sequential")] == ["", "amp"]
    cfg.train.amp.enabled = True
    assert [str(setting) for setting in fitting.settings(cfg, "sequential")] == ["amp"]


def test_every_setting_saves_memory():
    cfg = config("quick/adamixer_shapes", "model.decoder.stages.num_stages=4")
    rehearsal = Rehearsal(cfg)
    peaks = {
        str(setting): rehearsal.step(
            size=SIZE, images=4, objects=OBJECTS, plan="dense", execution=setting.execution, amp=setting.amp
        ).peak
        for setting in fitting.settings(cfg, "dense")
    }
    plain, amp, checkpointed, in_passes, all_of_it = peaks.values()
    assert all_of_it < in_passes < checkpointed < plain and all_of_it < amp < plain


@pytest.mark.parametrize(
    ("room", "how"),
    [
        (410, "fits as it is"),
        (409, "fits with train.accumulation_steps=2 ("),
        (110, "fits with train.accumulation_steps=4 ("),
        (109, "fits with train.amp.enabled=True train.accumulation_steps=4 ("),
        (59, "model.decoder.max_groups_per_pass=4 train.accumulation_steps=4 ("),
        (21, "does not fit, not even an image at a time"),
    ],
)
def test_the_mildest_setting_is_recommended(room, how):
    text = fitting.recommend(
        config("quick/sqr_detr_shapes"),
        Toy(),
        "selective",
        images=4,
        size_of=lambda images: SIZE,
        objects=1,
        budget=room / (1 - fitting.HEADROOM) + 0.1,
    )
    assert how in text


def test_a_batch_in_parts_is_smaller(capsys, monkeypatch):
    monkeypatch.setattr(memory, "Rehearsal", Toy)
    report = memory.run(parsed("--plans", "sequential", *SMALL, "train.accumulation_steps=4"))
    assert report["images"] == 4
    assert "4 images at once, 4 times a step" in capsys.readouterr().out


def test_sizes_are_those_of_the_files(capsys):
    report = memory.run(parsed("--params", "--size", "64", "96"))["params"]
    subject = Subject.from_config(config())
    assert report["parameters"] == report["trainable"] == sum(p.numel() for p in subject.model.parameters())
    file = io.BytesIO()
    torch.save({"model": subject.model.state_dict()}, file)
    assert len(file.getvalue()) == pytest.approx(report["weights_bytes"], rel=0.05)
    for parameter in subject.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    subject.optimizer.step()
    file = io.BytesIO()
    torch.save({"model": subject.model.state_dict(), "optimizer": subject.optimizer.state_dict()}, file)
    assert len(file.getvalue()) == pytest.approx(report["checkpoint_bytes"], rel=0.05)
    flops = {plan: sum(parts.values()) for plan, parts in report["multiply_adds"].items()}
    assert flops["sequential"] < flops["selective"] < flops["dense"]
    assert len({parts["backbone"] for parts in report["multiply_adds"].values()}) == 1
    assert "checkpoint:" in capsys.readouterr().out


def test_shared_modules_are_stored_once():
    model = instantiate(config("quick/detr_shapes", THREE_STAGES).model)  # its stages share their heads
    listed = sum(x.nbytes for x in model.state_dict().values())
    assert state_dict_bytes(model) < listed
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert len(file.getvalue()) == pytest.approx(state_dict_bytes(model), rel=0.05)


def test_an_image_of_its_own_is_not_padded_to_another(capsys):
    """Operations are those of one image, which no batch of mixed shapes pads."""
    args = parsed(
        "--params", "data.max_size=256", "data.min_size_train=[128]", config_file="quick/deformable_detr_folder"
    )
    assert memory.run(args)["size"] == (128, 256)
    assert "an image of 128x256" in capsys.readouterr().out


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
        (lambda: fitting.parse_bytes("24"), "--budget 24"),
        (lambda: fitting.parse_bytes("1.2.3GB"), "--budget 1.2.3GB"),
        (lambda: fitting.parse_bytes("24 parsecs"), "one of MB, GB, MiB, GiB"),
        (lambda: memory.batch_per_gpu(config(), 3), "total_batch_size=16 must be a multiple"),
        (
            lambda: memory.images_at_once(config("quick/detr_shapes", "train.accumulation_steps=3"), 4),
            "train.accumulation_steps=3 must divide the batch of a GPU, 4",
        ),
        (lambda: memory.target_device(parsed("--measure", "--for", "cuda")), "cannot be compared with"),
    ],
)
def test_usage_errors(call, message):
    with pytest.raises(UsageError, match=message):
        call()
    assert fitting.parse_bytes("24GB") == 24e9 and fitting.parse_bytes("1.5 GiB") == 1.5 * 2**30
    assert memory.batch_per_gpu(config(), 4) == 4
    assert memory.target_device(parsed()) == "cuda" and memory.target_device(parsed("--measure")) == "cpu"
