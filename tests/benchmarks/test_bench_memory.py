"""``benchmark.py memory``: predictions against real tensors and real memory, worst cases, recommendations."""

import io
import json
from argparse import ArgumentParser, Namespace

import pytest
import torch
from detectron2.config import instantiate

from sqr.benchmarks import memory
from sqr.benchmarks.live_memory import LiveMemory
from sqr.benchmarks.model_size import state_dict_bytes
from sqr.benchmarks.peak import Measurement, measure
from sqr.benchmarks.prediction import _step, optimizer_state_ratio, predict
from sqr.benchmarks.subjects import Subject, load_subject_config
from sqr.engine import UsageError
from sqr.targets import Targets

SIZE = (64, 96)
OBJECTS = 3
THREE_STAGES = "model.decoder.stages.num_stages=3"


def config(name="quick/deformable_detr_shapes", *overrides):
    return load_subject_config(Namespace(config_file=name, overrides=list(overrides), device="cpu"))


def parsed(*arguments, config_file="quick/deformable_detr_shapes"):
    parser = ArgumentParser()
    memory.add_arguments(parser)
    return parser.parse_args(["--config-file", config_file, "--device", "cpu", *arguments])


def real_step(cfg, images):
    """What :func:`predict` counts on fake tensors, on real ones."""
    targets = Targets.from_lists([torch.zeros(OBJECTS).long()] * images, [torch.full((OBJECTS, 4), 0.5)] * images)
    return _step(instantiate(cfg.model).train(), cfg, targets, (images, *SIZE), optimizer_state_ratio(cfg))


def test_live_memory_counts_storages_while_they_live():
    with LiveMemory() as live:
        a = torch.zeros(1000)
        view = a.view(10, 100)
        assert live.live == 4000
        b = a + 1
        del a
        assert live.live == 8000  # the view holds it
        del view
        assert live.live == 4000 and live.peak == 8000
        live.reset_peak()
        (b * 2).sum()
        assert live.peak == 8004
    assert live.live == 4000


@pytest.mark.parametrize(
    "name", ["deformable_detr_shapes", "detr_shapes", "dab_detr_shapes", "adamixer_shapes", "group_detr_shapes"]
)
def test_fake_tensors_count_as_real_ones_do(name):
    cfg = config(f"quick/{name}", "model.decoder.plan=selective", THREE_STAGES)
    predicted, real = predict(cfg, size=SIZE, images=2, objects=OBJECTS), real_step(cfg, images=2)
    assert predicted.parameters == real.parameters and predicted.gradients == real.gradients
    assert predicted.peak == pytest.approx(real.peak, rel=0.02)
    assert predicted.peak > predicted.parameters + predicted.gradients + predicted.optimizer


def test_peak_grows_with_the_batch_as_a_line():
    cfg = config("quick/sqr_deformable_detr_shapes", THREE_STAGES)
    row = memory.predict_row(cfg, "selective", {}, size=SIZE, objects=OBJECTS)
    exact = predict(cfg, size=SIZE, images=5, objects=OBJECTS)
    assert row.peak(5) == pytest.approx(exact.peak, rel=0.01)
    assert row.largest_batch(row.peak(5)) == 5 and row.largest_batch(row.peak(5) - 1) == 4
    assert row.largest_batch(1) == 0


def test_prediction_is_within_five_per_cent_of_what_a_process_takes():
    """The stated tolerance; resident memory of a fresh process, 16 images of 128 pixels."""
    name = "quick/sqr_deformable_detr_shapes"
    predicted = predict(config(name), size=(128, 128), images=16, objects=5).peak
    measured = measure(Measurement(name, [], (128, 128), 16, 5, "cpu", 1, 0, "selective")).peak
    assert predicted == pytest.approx(measured, rel=0.05)


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


def test_optimizer_state():
    assert optimizer_state_ratio(config()) == 2  # AdamW
    assert optimizer_state_ratio(config("quick/deformable_detr_shapes", "optimizer._target_=torch.optim.Adam")) == 2
    cfg = config()
    cfg.optimizer = {"_target_": "torch.optim.SGD", "params": None, "lr": 1.0}
    assert optimizer_state_ratio(cfg) == 0


def test_report_and_recommendation(capsys):
    arguments = ["--size", "64", "96", "--objects", "3", "--batch", "4", "model.decoder.plan=dense", THREE_STAGES]
    report = memory.run(parsed("--budget", "10GB", *arguments, "--plans", "sequential", "dense"))
    json.dumps(report)
    plans = {row["plan"]: row for row in reversed(report["rows"])}
    assert plans["sequential"]["predicted"] < plans["dense"]["predicted"]
    assert all(row["per_image"] > 0 and row["largest_batch"] > 100 for row in report["rows"])
    assert "10 GB, 4 images a GPU: fits with model.decoder.plan=dense" in report["recommendation"]
    assert report["recommendation"] in capsys.readouterr().out


def test_recommendation_when_it_does_not_fit():
    row = memory.predict_row(config("quick/detr_shapes", THREE_STAGES), "selective", {}, size=SIZE, objects=OBJECTS)
    room = row.peak(3) / (1 - memory.HEADROOM) + 10
    text = memory.recommend([row], "selective", images=4, budget=room)
    assert "does not fit; at most 3 with model.decoder.plan=selective" in text
    assert memory.recommend([row], "selective", images=3, budget=room).count("fits with") == 1
    assert "not even one image" in memory.recommend([row], "selective", images=3, budget=1e6)


def test_options_that_the_decoder_has_are_predicted():
    assert memory.available_options("sequential", 6) == [{}]
    assert memory.available_options("dense", 6) == list(memory.OPTIONS)
    cfg = config("quick/adamixer_shapes", "model.decoder.stages.num_stages=4")
    rows = [memory.predict_row(cfg, "dense", o, size=SIZE, objects=OBJECTS) for o in memory.OPTIONS]
    plain, checkpointed, in_passes = (row.peak(4) for row in rows)
    assert in_passes < checkpointed < plain
    assert [o.removeprefix("+") for o in rows[2].overrides] == [
        "model.decoder.plan=dense",
        "model.decoder.checkpoint_groups=True",
        "model.decoder.max_groups_per_pass=4",
    ]


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: memory.parse_bytes("24"), "--budget 24"),
        (lambda: memory.parse_bytes("24 parsecs"), "one of MB, GB, MiB, GiB"),
        (lambda: memory.batch_per_gpu(config(), 3), "total_batch_size=16 must be a multiple"),
    ],
)
def test_usage_errors(call, message):
    with pytest.raises(UsageError, match=message):
        call()
    assert memory.parse_bytes("24GB") == 24e9 and memory.parse_bytes("1.5 GiB") == 1.5 * 2**30
    assert memory.batch_per_gpu(config(), 4) == 4
