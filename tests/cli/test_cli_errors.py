"""What a newcomer gets wrong in the first hour: one line, the right exit code, and no completed work lost."""

import json
import resource

import pytest
import torch

from engine_toys import run_toy
from tiny_coco import CONFIG, SMALL, dataset_overrides, write_tiny_coco


def run(folder, *overrides, **flags):
    return run_toy(folder / "out", *dataset_overrides(folder), *SMALL, *overrides, config=CONFIG, **flags)


def error_line(capsys):
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err, err
    return lines[0]


def edit(folder, change, split="train"):
    content = json.loads((folder / f"{split}.json").read_text())
    change(content)
    (folder / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    return write_tiny_coco(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["data.train.annotations=/nowhere/a.json"], 1, "annotation file '/nowhere/a.json' does not exist"),
        (["data.val.images=/nowhere"], 1, "image root '/nowhere' of annotation file"),
        (["data.num_classes=7"], 1, "data.num_classes is 7, but annotation file"),
        (["data.num_clases=2"], 2, "unknown key data.num_clases; did you mean data.num_classes"),
        (["train.device=cuda"], 2, "this machine has no usable CUDA device; use train.device=cpu"),
        (["train.init_checkpoint=/nowhere/a.pth"], 1, "train.init_checkpoint=/nowhere/a.pth: no such file"),
        (["train.init_checkpoint=/nowhere/a.pth@ema"], 1, "train.init_checkpoint=/nowhere/a.pth@ema: no such file"),
        (["model.query_generator.num_queries=2"], 1, "image '2.png' has 3 objects, but the model has only 2 queries"),
        (["dataloader.train.total_batch_size=0"], 1, "total_batch_size=0 must be a positive multiple"),
    ],
)
def test_wrong_value(folder, capsys, overrides, code, message):
    if "train.device=cuda" in overrides and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert run(folder, *overrides) == code
    assert message in error_line(capsys)
    assert not list((folder / "out").glob("*.pth"))


def test_eval_only_without_the_checkpoint(folder, capsys):
    assert run(folder, "train.init_checkpoint=/nowhere/a.pth", eval_only=True) == 1
    assert "train.init_checkpoint=/nowhere/a.pth: no such file" in error_line(capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["annotations"].clear(), "has no box to train on (5 images"),
        (lambda content: content["images"].clear() or content["annotations"].clear(), "lists no images"),
        (lambda content: content["categories"].clear(), "has an empty 'categories' list"),
        (lambda content: content["images"].pop(0), ": image_id 1, which 'images' does not list"),
    ],
    ids=["no_boxes", "no_images", "no_categories", "unknown_image"],
)
def test_empty_or_wrong_annotation_file(folder, capsys, change, message):
    edit(folder, change)
    assert run(folder) == 1
    assert message in error_line(capsys)


def test_annotation_file_of_no_bytes(folder, capsys):
    (folder / "train.json").write_text("")
    assert run(folder) == 1
    assert "it is not valid JSON" in error_line(capsys)


def test_images_without_boxes_just_work(tmp_path):
    folder = write_tiny_coco(tmp_path, counts=(2, 0, 0, 0, 0, 0, 0, 0))  # the second batch has no object at all
    assert run(folder, "train.max_iter=2", "train.accumulation_steps=2") == 0
    final = torch.load(folder / "out" / "model_final.pth", weights_only=True)
    assert all(v.isfinite().all() for v in final["model"].values())


def truncate(folder, number):
    path = folder / "images" / f"{number}.png"
    path.write_bytes(path.read_bytes()[:200])


def test_a_corrupt_training_image_is_named_and_the_iterations_before_it_are_saved(tmp_path, capsys):
    folder = write_tiny_coco(tmp_path, counts=(1,) * 7)
    truncate(folder, 6)
    options = ["+dataloader.train.shuffle=False", "dataloader.train.total_batch_size=2", "train.max_iter=4"]
    assert run(folder, *options) == 1  # image 6 is in the batch of iteration 3
    error = error_line(capsys)
    assert "6.png" in error and "The 3 iterations done are saved: resume with --resume" in error
    saved = torch.load(folder / "out" / "model_0000002.pth", weights_only=True)
    assert (saved["iteration"], saved["trainer"]["samples_seen"]) == (2, 6)
    write_tiny_coco(tmp_path / "again", counts=(1,) * 7)
    (tmp_path / "again" / "images" / "6.png").rename(folder / "images" / "6.png")
    assert run(folder, *options, resume=True) == 0
    assert (folder / "out" / "model_final.pth").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_validation_image_is_one_line_and_the_training_is_kept(folder, capsys, workers):
    edit(folder, lambda content: content["images"].__setitem__(slice(4, None), []), split="train")
    edit(folder, lambda content: content["annotations"].__setitem__(slice(7, None), []), split="train")
    truncate(folder, 4)
    assert run(folder, "train.max_iter=1", f"dataloader.test.num_workers={workers}") == 1
    error = error_line(capsys)
    assert "error: evaluation: " in error and len(error) < 300
    assert (folder / "out" / "last_checkpoint").read_text() == "model_final.pth"


def test_a_disk_that_is_full_at_checkpoint_time_keeps_the_checkpoint_before(tmp_path, capsys):
    options = ["+model.channels=80", "train.eval_period=0"]
    assert run_toy(tmp_path, "+model.interrupt_at=7", *options) == 130
    capsys.readouterr()
    size = (tmp_path / "model_0000006.pth").stat().st_size
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, old[1]))  # the real thing: write(2) fails half-way
    try:
        code = run_toy(tmp_path, *options, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert code == 1
    error = error_line(capsys)
    assert "cannot write the checkpoint" in error and "model_0000009.pth" in error
    assert "model_0000006.pth is complete. Make room or change train.output_dir, then resume with --resume" in error
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000006.pth"
    assert not list(tmp_path.glob(".*.tmp"))
    assert run_toy(tmp_path, *options, resume=True) == 0


def test_a_disk_that_is_full_for_the_log_saves_what_it_can(tmp_path, capsys, monkeypatch):
    def full(path, row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sqr.engine.writers.append_row", full)
    assert run_toy(tmp_path, "train.eval_period=0") == 1
    error = error_line(capsys)
    assert "No space left on device" in error and "The 3 iterations done are saved: resume with --resume" in error
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
