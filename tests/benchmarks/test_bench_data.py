"""``benchmark.py data`` on a folder of its own."""

import json
import time
from argparse import ArgumentParser

import numpy as np
import pytest
from PIL import Image

from sqr.benchmarks import data
from sqr.errors import UserError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
        box = {"bbox": [5, 5, 30, 20], "area": 600, "iscrowd": 0}
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


def parsed(folder, *arguments):
    parser = ArgumentParser()
    data.add_arguments(parser)
    splits = [f"data.{s}.{k}={folder}{v}" for s in ("train", "val") for k, v in (("annotations", "/instances.json"),
                                                                                  ("images", ""))]  # fmt: skip
    small = ["data.min_size_train=[64]", "data.min_size_test=64", "data.max_size=96", "model.num_classes=1"]
    small += ["dataloader.train.total_batch_size=2", "model.query_generator.num_queries=7"]
    return parser.parse_args(
        ["--config-file", "quick/deformable_detr_folder", "--device", "cpu", *arguments, "--", *splits, *small]
    )


def test_waiting_and_steps_are_reported(folder, capsys):
    report = data.run(parsed(folder, "--workers", "0", "1", "--batches", "2"))
    json.dumps(report)
    assert [row["workers"] for row in report["rows"]] == [0, 1] and report["images"] == 2
    for row in report["rows"]:
        assert row["loader alone, s a batch"] > 0 and row["step, s"] > 0 and 0 <= row["share of waiting"] < 1
    assert "share of waiting" in capsys.readouterr().out


def test_waits_are_summed_so_that_bursts_of_batches_count():
    """Workers deliver three at once and then keep one waiting: the median wait would be nothing."""

    def bursts():
        for number in range(9):
            time.sleep(0.04 if number and number % 4 == 0 else 0)
            yield number

    waiting, _ = data._iterate(bursts(), None, 8)
    assert 0.08 <= waiting < 0.16


def test_missing_data_is_one_line(folder):
    (folder / "instances.json").unlink()
    with pytest.raises(UserError, match=r"instances\.json"):
        data.run(parsed(folder))
