"""``tools/demo.py``: pictures, JSON, video, and what it says of inputs that fail."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sqr import Predictor
from sqr.cli.predict import main
from sqr.data.shapes import ShapesSettings, ensure_shapes
from sqr.visualization import Video, VideoFile, find_inputs

NAME = "quick/sqr_deformable_detr_shapes"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return ensure_shapes(tmp_path_factory.mktemp("shapes"), ShapesSettings(train_images=1, val_images=3)) / "val"


@pytest.fixture(scope="module")
def trained():
    return Predictor.from_zoo(NAME, device="cpu", score_threshold=0.3)


@pytest.fixture
def quick(trained, monkeypatch):
    """The demo with a model that is built once."""
    asked = []

    def from_config(config, weights, **options):
        asked.append((config, weights, options))
        return trained

    monkeypatch.setattr(Predictor, "from_config", from_config)
    return asked


def test_images_are_drawn_and_stored(images, tmp_path, capsys):
    code = main(
        [
            "--input",
            str(images / "000000.png"),
            "--output",
            str(tmp_path),
            "--json",
            str(tmp_path / "all.json"),
            "--stages",
        ]
    )
    assert code == 0
    stored = json.loads((tmp_path / "all.json").read_text())
    (image,) = stored["images"]
    picture = Image.open(tmp_path / "000000.png")
    assert max(picture.size) == 512 and (image["width"], image["height"]) == Image.open(images / "000000.png").size
    plain = Image.open(images / "000000.png").convert("RGB").resize(picture.size)
    changed = np.abs(np.asarray(picture, dtype=int) - np.asarray(plain)).max(-1) > 60
    assert 0.01 < changed.mean() < 0.6  # boxes and names
    assert image["detections"] and all(d["score"] >= 0.3 and len(d["box"]) == 4 for d in image["detections"])
    assert {d["class"] for d in image["detections"]} <= set(stored["class_names"])
    strip = Image.open(tmp_path / "000000_stages.png")
    assert strip.width > 3 * strip.height  # six columns
    assert f"Pictures: {tmp_path}" in capsys.readouterr().out


def test_a_broken_image_is_named_and_costs_nothing_else(images, tmp_path, quick, capsys):
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    data = (images / "000001.png").read_bytes()
    (folder / "a.png").write_bytes(data)
    (folder / "b.png").write_bytes(data[: len(data) // 2])
    (folder / "c.jpg").write_text("no image")
    (folder / "deeper" / "d.png").write_bytes(data)
    code = main([str(folder), "--output", str(tmp_path / "out"), "--json", str(tmp_path / "all.json")])
    error = capsys.readouterr().err
    assert code == 1
    assert f"skipped: cannot read the image {folder / 'b.png'}: " in error and str(folder / "c.jpg") in error
    assert error.endswith("error: 2 of 4 inputs failed, see above\n")
    stored = json.loads((tmp_path / "all.json").read_text())
    assert [i["file"] for i in stored["images"]] == [str(folder / "a.png"), str(folder / "deeper" / "d.png")]
    assert [f["file"] for f in stored["failed"]] == [str(folder / "b.png"), str(folder / "c.jpg")]
    assert (tmp_path / "out" / "a.png").is_file() and (tmp_path / "out" / "deeper" / "d.png").is_file()


def test_video_in_video_out(images, tmp_path, quick):
    pytest.importorskip("cv2")
    frames = [
        np.asarray(Image.open(images / f"{i:06d}.png").convert("RGB").resize((128, 96)))[:, :, ::-1] for i in range(3)
    ]
    with VideoFile(tmp_path / "in.avi", fps=5) as video:
        for frame in frames:
            video.write(frame)
    back = list(Video(tmp_path / "in.avi"))
    assert len(back) == 3 and Video(tmp_path / "in.avi").fps == 5
    assert all(np.abs(a.astype(int) - b).mean() < 12 for a, b in zip(frames, back, strict=True))
    assert (
        main(
            [
                "--input",
                str(tmp_path / "in.avi"),
                "--output",
                str(tmp_path / "out"),
                "--json",
                str(tmp_path / "all.json"),
            ]
        )
        == 0
    )
    drawn = list(Video(tmp_path / "out" / "in.mp4"))
    assert [f.shape for f in drawn] == [(96, 128, 3)] * 3
    stored = json.loads((tmp_path / "all.json").read_text())["images"]
    assert [i["frame"] for i in stored] == [0, 1, 2] and any(i["detections"] for i in stored)


def test_a_broken_video_and_a_missing_camera_are_said(tmp_path, quick, capsys):
    pytest.importorskip("cv2")
    (tmp_path / "a.mp4").write_text("no video")
    assert main(["--input", str(tmp_path / "a.mp4"), "--json", str(tmp_path / "all.json")]) == 1
    assert f"{tmp_path / 'a.mp4'} cannot be read as video" in capsys.readouterr().err
    assert main(["--webcam", "63", "--json", str(tmp_path / "all.json")]) == 1
    assert "error: camera 63 cannot be read as video" in capsys.readouterr().err


def test_without_opencv_no_video_and_no_window(images, tmp_path, quick, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    image = str(images / "000000.png")
    assert main(["--input", image, "--show"]) == 1
    assert capsys.readouterr().err == "error: --show needs OpenCV: pip install 'detectron2-sqr[video]'\n"
    assert main(["--input", image, "--output", str(tmp_path)]) == 0
    assert (tmp_path / "000000.png").is_file()


def test_options_name_the_model(images, tmp_path, quick, capsys):
    image, out = str(images / "000000.png"), ["--json", str(tmp_path / "all.json")]
    main([image, *out])
    main(
        [
            "--input",
            image,
            *out,
            "--config-file",
            "quick/detr_shapes",
            "--weights",
            "a.pth",
            "--opts",
            "data.max_size=99",
        ]
    )
    assert quick[0][:2] == (NAME, "zoo") and quick[1][:2] == ("quick/detr_shapes", "a.pth")
    assert quick[1][2]["overrides"] == ["data.max_size=99"]
    about = {"config": "model: {num_classes: 7}", "class_names": []}  # what a training stores in its checkpoints
    torch.save({"model": {"a": torch.zeros(1)}, "about": about}, tmp_path / "own.pth")
    main([image, *out, "--weights", str(tmp_path / "own.pth")])
    assert quick[2][0].model.num_classes == 7 and quick[2][1] == str(tmp_path / "own.pth")
    main([image, *out, "--weights", f"zoo://{NAME}"])
    assert quick[3][:2] == (NAME, f"zoo://{NAME}")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "bare.pth")
    capsys.readouterr()
    assert main([image, *out, "--weights", str(tmp_path / "bare.pth")]) == 1
    assert "bare.pth does not say which model it is of: name the config too" in capsys.readouterr().err
    assert main(["--input", image, *out, "--run", str(tmp_path / "run")]) == 1
    assert "not the output folder of a training" in capsys.readouterr().err
    assert main(["--input", image, *out, "--run", str(tmp_path), "--config-file", "quick/detr_shapes"]) == 2
    assert main(out) == 2 and main(["--input", "nothing.jpg", *out]) == 1
    assert "nothing.jpg: no such file or folder, and no file matches it" in capsys.readouterr().err


def test_inputs_of_equal_names_keep_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "x.png")
    found = find_inputs([str(tmp_path / "*" / "x.png"), str(tmp_path / "a" / "x.png")])
    assert [str(target) for _, target in found] == ["x.png", "x_2.png"]
    assert [p.parent.name for p, _ in found] == ["a", "b"]
    found = find_inputs([str(tmp_path / "b"), str(tmp_path / "a")])  # in the order given
    assert [p.parent.name for p, _ in found] == ["b", "a"]
