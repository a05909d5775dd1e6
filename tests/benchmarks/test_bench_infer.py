"""``benchmark.py infer``: the same weights in ``transformers``, the same outputs, structure of the report."""

import json
import sys
from argparse import ArgumentParser

import pytest
import torch

from sqr.benchmarks import infer
from sqr.benchmarks.other_models import NoCounterpartError, counterpart
from sqr.benchmarks.subjects import load_subject_config
from sqr.errors import UsageError, UserError

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
    ours, theirs, _ = infer.build_pair(load_subject_config(args), seed=0)
    with torch.inference_mode():
        infer.compare(ours, theirs, infer.padded_pair((64, 96), 0))
        for name, parameter in theirs.named_parameters():
            if "class_embed" in name:
                parameter += 0.1
        with pytest.raises(UserError, match="not the same model"):
            infer.compare(ours, theirs, infer.padded_pair((64, 96), 0))


ALONE = ["adamixer/adamixer_r50_12ep", "quick/detr_shapes", "quick/dab_detr_shapes", "quick/group_detr_shapes"]


@pytest.mark.parametrize("name", ALONE)
def test_configs_without_a_counterpart(name):
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(NoCounterpartError, match=r"not compared: .*transformers"):
        counterpart(load_subject_config(parsed(name)))


def test_without_a_counterpart_our_model_is_timed_alone(capsys):
    few = ["model.decoder.stages.num_stages=2", "model.query_generator.num_queries=7"]
    report = infer.run(parsed("quick/dab_detr_shapes", "--bf16", "--", *few))
    json.dumps(report)
    ours = {infer.OURS, infer.WHOLE}
    assert set(report["results"][0]["times"]) == ours | {f"{name}, bf16" for name in ours}
    assert report["largest_difference"] is None and "not compared: " in report["not_compared"]
    output = capsys.readouterr().out
    assert report["not_compared"] in output and "images/s" in output and "latency, ms" in output


def test_without_transformers_every_config_is_timed_alone(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    report = infer.run(parsed(DEFORMABLE, "--", *NARROW))
    assert set(report["results"][0]["times"]) == {infer.OURS, infer.WHOLE}
    assert "pip install transformers" in capsys.readouterr().out


def test_outputs_are_compared_in_exact_float32():
    torch.backends.cudnn.allow_tf32 = True
    before = torch.get_float32_matmul_precision()
    with infer.exact_float32():
        assert not torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == before


def test_sizes_are_checked():
    with pytest.raises(UsageError, match="as in 480x640"):
        infer.parse_size("480")
