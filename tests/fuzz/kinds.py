"""What is fuzzed: one class for each kind of input.

``attempt`` feeds one damaged input to the code that reads it. It returns ``refused`` where that code raised one of the
errors that commands print as one line, and ``accepted`` where what was read means what the input says; anything else
(another exception, a wrong meaning) fails.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from dataset_builders import write_coco_2017, write_yolo
from engine_toys import TOY_CONFIG, ToyDetector, ToyMapper, toy_dicts
from fuzz.mutations import ODD, damaged, damaged_bytes
from sqr.checkpoint.checkpointer import Checkpointer
from sqr.checkpoint.files import read_weights, write_weights
from sqr.config import load_config, load_run_config, save_config
from sqr.config.overrides import dotted_keys
from sqr.data.images import read_image
from sqr.data.layouts import CocoSplit, find_dataset
from sqr.data.prepared import prepare_split
from sqr.engine import EvaluationHistory, Trainer, build_train_loader
from sqr.errors import UserError
from sqr.evaluation.analysis import analyze
from sqr.evaluation.ground_truth import load_coco
from sqr.evaluation.storage import from_coco_results, load_predictions, save_predictions, to_coco_results
from sqr.evaluation.synthetic import synthetic_dataset, synthetic_predictions
from sqr.files import read_rows

FILE_ERRORS = (ValueError, OSError)  # which the commands that read data report as one line; UserError is a ValueError


def _json(document: object) -> bytes:
    return json.dumps(document).encode("utf-8", "surrogatepass")


class Kind:
    """Args: folder: for files; it may be used for many inputs."""

    def __init__(self, folder: Path):
        self.folder = folder

    def attempt(self, draw: Callable) -> str:
        raise NotImplementedError


class ConfigFile(Kind):
    """A run's ``config.yaml``."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.path, self.marker = folder / "config.yaml", folder / "marker"
        save_config(load_config(TOY_CONFIG), str(self.path))
        self.text = self.path.read_bytes()
        self.document = yaml.safe_load(self.text)

    def attempt(self, draw: Callable) -> str:
        if draw(st.booleans()):
            data = draw(damaged_bytes(self.text))
        else:
            data = yaml.safe_dump(draw(damaged(self.document)), allow_unicode=True).encode("utf-8", "surrogatepass")
            hostile = f"_target_: os.mkdir\n  path: {self.marker}"
            data = data.replace(b"_target_: engine_toys.ToyDetector", hostile.encode()) if draw(st.booleans()) else data
        self.path.write_bytes(data)
        try:
            cfg = load_run_config(str(self.path), training=True, device="cpu")
        except UserError:
            return self._refused()
        document = yaml.safe_load(data)
        plain = OmegaConf.to_container(cfg)
        for key in ("optimizer", "model", "lr_multiplier"):
            assert str(plain[key]) == str(document[key]), key
        assert plain["train"]["max_iter"] >= 1
        return "accepted"

    def _refused(self) -> str:
        assert not self.marker.exists()
        return "refused"


class Overrides(Kind):
    """``key=value`` words of a command line."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.base = load_config(TOY_CONFIG)
        self.keys = list(dotted_keys(self.base))

    def attempt(self, draw: Callable) -> str:
        words = []
        for _ in range(draw(st.integers(1, 3))):
            key = draw(st.sampled_from(self.keys))
            value = draw(
                st.one_of(ODD.map(str), st.sampled_from(["null", "${train.max_iter}", "[1,2]", "{a:1}", "'x y'"]))
            )
            words.append(
                draw(st.sampled_from(["", "", "", "+", "~", "++"]))
                + key
                + draw(st.sampled_from(["=", "=", ""]))
                + value
            )
        try:
            cfg = load_run_config(TOY_CONFIG, words, training=True, device="cpu")
        except UserError:
            return "refused"
        assert isinstance(cfg.train.max_iter, int) and isinstance(cfg.train.seed, int)
        return "accepted"


class Weights(Kind):
    """A checkpoint to start from: ``.pth`` and ``.safetensors``."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        torch.manual_seed(0)
        self.tensors = ToyDetector().state_dict()
        self.files = {}
        for name in ("w.pth", "w.safetensors"):
            write_weights(str(folder / name), self.tensors)
            self.files[name] = (folder / name).read_bytes()

    def attempt(self, draw: Callable) -> str:
        name = draw(st.sampled_from(sorted(self.files)))
        path = self.folder / f"damaged_{name}"
        path.write_bytes(draw(damaged_bytes(self.files[name])))
        try:
            read = read_weights(str(path)).tensors
        except UserError:
            return "refused"
        if name == "w.safetensors" and read.keys() != self.tensors.keys():
            raise AssertionError("other tensors than were written")
        assert read.keys() == self.tensors.keys()
        assert all(torch.equal(read[key], tensor) for key, tensor in self.tensors.items())
        return "accepted"


class ResumeFolder(Kind):
    """Everything ``--resume`` reads: checkpoints, ``last_checkpoint``, ``evaluations.json``, ``metrics.json``."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.good, self.run = folder / "good", folder / "run"
        self.good.mkdir()
        self.trainer, self.checkpointer = self._trainer(self.good)
        for iteration in (2, 5):
            self.trainer.completed = iteration
            self.trainer.samples_seen = 4 * (iteration + 1)
            with torch.no_grad():
                self.trainer.model.box_head.weight.add_(1)
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        rows = [{"iteration": i, "bbox/AP": float(i)} for i in (1, 3, 5)]
        (self.good / "evaluations.json").write_text(json.dumps(rows))
        (self.good / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.weights = {
            i: torch.load(self.good / f"model_{i:07d}.pth", weights_only=True)["model"]["box_head.weight"]
            for i in (2, 5)
        }
        self.trainer, self.checkpointer = self._trainer(self.run)

    @staticmethod
    def _trainer(folder: Path) -> tuple[Trainer, Checkpointer]:
        model = ToyDetector()
        loader = build_train_loader(toy_dicts(), mapper=ToyMapper(), total_batch_size=4)
        trainer = Trainer(model, loader, torch.optim.AdamW(model.parameters()), seed=1)
        return trainer, Checkpointer(model, str(folder), trainer=trainer)

    def attempt(self, draw: Callable) -> str:
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.good, self.run)
        path = self.run / draw(st.sampled_from([*sorted(p.name for p in self.good.iterdir()), "model_0000005.pth"]))
        if path.suffix == ".pth" and draw(st.booleans()):
            torch.save(draw(damaged(torch.load(path, weights_only=True))), path)
        elif draw(st.integers(0, 9)) == 0:
            path.unlink()
        else:
            path.write_bytes(draw(damaged_bytes(path.read_bytes())))
        history = EvaluationHistory(self.run)
        try:
            self.checkpointer.resume()
        except UserError:
            return "refused"
        history.load(self.trainer.completed + 1)
        assert all(entry["iteration"] <= self.trainer.completed for entry in history.entries)
        history.since_best("bbox/AP", "max")
        assert all(isinstance(row, dict) for row in read_rows(self.run / "metrics.json"))
        if path.suffix != ".pth":
            iteration = self.trainer.completed
            assert torch.equal(self.trainer.model.box_head.weight, self.weights[iteration])
        assert all(t.isfinite().all() for t in self.trainer.model.state_dict().values())
        return "accepted"


class PredictionShards(Kind):
    """A directory of predictions: ``meta.json`` and ``part-*.npz``."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        data, rng = synthetic_dataset(num_images=3, num_classes=2, seed=1)
        self.predictions = synthetic_predictions(data, rng, num_stages=2, num_queries=5, top_k=6)
        self.coco = load_coco(data)
        save_predictions(self.predictions, folder)
        self.shard, self.meta = folder / "part-0-0000.npz", folder / "meta.json"
        self.bytes, self.document = self.shard.read_bytes(), json.loads(self.meta.read_text())
        with np.load(self.shard) as file:
            self.columns = {name: file[name] for name in file.files}
        self.summary = analyze(load_predictions(folder)[0], self.coco).summary()

    def attempt(self, draw: Callable) -> str:
        self.shard.write_bytes(self.bytes)
        self.meta.write_bytes(_json(self.document))
        kind = draw(st.sampled_from(["bytes", "columns", "meta"]))
        if kind == "bytes":
            self.shard.write_bytes(draw(damaged_bytes(self.bytes)))
        elif kind == "meta":
            self.meta.write_bytes(_json(draw(damaged(self.document))))
        else:
            lists = draw(damaged({name: value.tolist() for name, value in self.columns.items()}))
            buffer = io.BytesIO()
            try:
                np.savez_compressed(buffer, **{str(k): np.asarray(v) for k, v in dict(lists).items()})
            except (ValueError, TypeError, OverflowError, UnicodeError):  # no array can hold it
                return "refused"
            self.shard.write_bytes(buffer.getvalue())
        try:
            read = load_predictions(self.folder)[0]
            summary = analyze(read, self.coco).summary()
        except FILE_ERRORS:
            return "refused"
        if kind == "bytes":
            assert {**summary, "source": ""} == {**self.summary, "source": ""}
        assert all(np.isfinite(t.box).all() and np.isfinite(t.score).all() for t in read.detections)
        return "accepted"


class ResultFiles(Kind):
    """COCO result files, one for each stage."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        data, rng = synthetic_dataset(num_images=3, num_classes=2, seed=1)
        made = synthetic_predictions(data, rng, num_stages=1, num_queries=4, top_k=4)
        self.coco, self.path = load_coco(data), folder / "stage0.json"
        self.rows = to_coco_results(made.detections[0], made)

    def attempt(self, draw: Callable) -> str:
        rows = draw(damaged(self.rows))
        data = draw(damaged_bytes(_json(self.rows))) if draw(st.integers(0, 3)) == 0 else _json(rows)
        self.path.write_bytes(data)
        try:
            read = from_coco_results([self.path], self.coco)
            analyze(read, self.coco)
        except FILE_ERRORS:
            return "refused"
        written = json.loads(data)
        back = to_coco_results(read.detections[0], read)
        assert len(back) == len(written)
        key = ("image_id", "category_id", "score")
        assert sorted(tuple(r[k] for k in key) for r in back) == sorted(tuple(r[k] for k in key) for r in written)
        return "accepted"


class CocoFile(Kind):
    """A COCO annotation file."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        write_coco_2017(folder)
        (self.path,) = sorted(folder.glob("annotations/instances_train*.json"))
        self.images = folder / "images" / "train2017"
        self.document = json.loads(self.path.read_text()) | {"info": {"year": 1, "description": "x"}, "licenses": [{}]}
        for annotation in self.document["annotations"]:
            annotation |= {"segmentation": [[1, 1, 9, 1, 9, 9]], "attributes": {"a": 1, "b": [2]}}

    def attempt(self, draw: Callable) -> str:
        document = draw(damaged(self.document, most=2))
        data = draw(damaged_bytes(_json(self.document))) if draw(st.integers(0, 3)) == 0 else _json(document)
        self.path.write_bytes(data)
        try:
            split = prepare_split(CocoSplit(str(self.path), (str(self.images),)))
        except FILE_ERRORS:
            return "refused"
        content = json.loads(Path(split.json_file).read_text())
        _check_coco(content, split.most_objects)
        return "accepted"


class YoloFolder(Kind):
    """A YOLO dataset: ``data.yaml`` and label files."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.root = folder / "yolo"
        write_yolo(self.root)
        self.texts = [p for p in sorted(self.root.rglob("*")) if p.suffix in (".yaml", ".txt")]
        self.contents = {p: p.read_bytes() for p in self.texts}

    def attempt(self, draw: Callable) -> str:
        for path, content in self.contents.items():
            path.write_bytes(content)
        path = draw(st.sampled_from(self.texts))
        if path.suffix == ".yaml" and draw(st.booleans()):
            path.write_text(yaml.safe_dump(draw(damaged(yaml.safe_load(self.contents[path])))))
        elif path.suffix == ".txt" and self.contents[path].strip() and draw(st.booleans()):
            numbers = [row.split() for row in self.contents[path].decode().splitlines()]
            rows = draw(damaged(numbers))
            rows = rows if isinstance(rows, list) else [rows]
            lines = (" ".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows)
            path.write_text("\n".join(lines), errors="replace")
        else:
            path.write_bytes(draw(damaged_bytes(self.contents[path])))
        try:
            split = prepare_split(find_dataset(str(self.root)).split("train"), name="train")
        except FILE_ERRORS:
            return "refused"
        _check_coco(json.loads(Path(split.json_file).read_text()), split.most_objects)
        return "accepted"


def _check_coco(content: dict, most: int) -> None:
    """A prepared file is valid: ids unique, references resolve, boxes finite, positive and inside their images."""
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    assert len(images) == len(content["images"]) and len(categories) == len(content["categories"])
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])
    for annotation in content["annotations"]:
        image, (x, y, w, h) = images[annotation["image_id"]], annotation["bbox"]
        assert annotation["category_id"] in categories and annotation.get("iscrowd", 0) in (0, 1)
        assert all(math.isfinite(v) for v in (x, y, w, h, annotation["area"])) and w > 0 and h > 0
        assert x >= -1 and y >= -1 and x + w <= image["width"] + 1 and y + h <= image["height"] + 1, annotation
    assert most <= len(content["annotations"])


class ImageFile(Kind):
    """PNG, JPEG, GIF and TIFF files."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        pixels = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)
        self.files = {}
        for suffix in ("png", "jpeg", "gif", "tiff", "bmp"):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, suffix)
            self.files[suffix] = buffer.getvalue()

    def attempt(self, draw: Callable) -> str:
        suffix = draw(st.sampled_from(sorted(self.files)))
        path = self.folder / f"image.{suffix}"
        path.write_bytes(draw(damaged_bytes(self.files[suffix])))
        try:
            pixels = read_image(str(path))
        except UserError:
            return "refused"
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        return "accepted"


KINDS = {
    "config file": ConfigFile, "overrides": Overrides, "weights": Weights, "resume folder": ResumeFolder,
    "prediction shards": PredictionShards, "result files": ResultFiles, "COCO file": CocoFile,
    "YOLO folder": YoloFolder, "image": ImageFile,
}  # fmt: skip
