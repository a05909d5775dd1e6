"""``benchmark.py infer``: the same weights in ``transformers``, the same outputs, structure of the report."""

import json
import sys
from argparse import ArgumentParser

import pytest
import torch

from sqr.benchmarks import infer
from sqr.benchmarks.other_models import counterpart
from sqr.benchmarks.subjects import load_subject_config
from sqr.engine import UsageError, UserError

DEFORMABLE = "deformable_detr/deformable_detr_r50_50ep"
NARROW = ["data.num_classes=5", "model.encoder.dim=64", "model.encoder.layers.num_layers=1", "model.num_classes=5"]
NARROW += [
    "model.encoder.layers.ffn_dim=48",
    "model.decoder.stages.num_stages=2",
    "model.query_generator.num_queries=7",
]


def parsed(config_file, *arguments):
    parser = ArgumentParser()
    infer.add_arguments(parser)
    common = ["--config-file", config_file, "--device", "cpu", "--sizes", "64x96", "--repeats", "1"]
    return parser.parse_args([*common, *arguments])


@pytest.mark.parametrize(
    "name",
    [DEFORMABLE, "deformable_detr/deformable_detr_two_stage_r50_50ep", "detr/detr_r50_300ep"],
    ids=["plain", "two-stage", "detr"],
)
def test_outputs_agree_and_are_timed(name, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed")
    report = infer.run(parsed(name, "--batches", "2", "--", *NARROW))
    json.dumps(report)
    assert report["largest_difference"] < infer.TOLERANCE
    assert [(r["size"], r["images"]) for r in report["results"]] == [((64, 96), 2)]
    for result in report["results"]:
        assert set(result["times"]) == {infer.OURS, infer.THEIRS, infer.WHOLE}
        for times in result["times"].values():
            assert 0 < times["best_ms"] <= times["median_ms"] <= times["p90_ms"]
    assert "images/s" in capsys.readouterr().out


def test_other_weights_are_refused():
    pytest.importorskip("transformers", reason="transformers is not installed")
    args = parsed(DEFORMABLE, "--", *NARROW)
    ours, theirs = infer.build_pair(load_subject_config(args), seed=0)
    with torch.inference_mode():
        infer.compare(ours, theirs, infer.padded_pair((64, 96), 0))
        for name, parameter in theirs.named_parameters():
            if "class_embed" in name:
                parameter += 0.1
        with pytest.raises(UserError, match="not the same model"):
            infer.compare(ours, theirs, infer.padded_pair((64, 96), 0))


@pytest.mark.parametrize("name", ["adamixer/adamixer_r50_12ep", "quick/detr_shapes"])
def test_configs_without_a_counterpart(name):
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(UserError, match="transformers is compared with"):
        counterpart(load_subject_config(parsed(name)))


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install transformers"):
        counterpart(load_subject_config(parsed(DEFORMABLE)))


def test_sizes_are_checked():
    with pytest.raises(UsageError, match="as in 480x640"):
        infer.parse_size("480")
