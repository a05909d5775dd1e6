"""The data configs: overrides reach the loaders, saved configs load back, real COCO-format folders train."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T

from sqr.data import resolve_num_classes

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "common" / "data"
SHARED = ROOT.parent / "shared" / "data"


def load(name, overrides=(), output=None):
    cfg = LazyConfig.load(str(CONFIGS / f"{name}.py"))
    cfg.train = {"output_dir": str(output)}
    return LazyConfig.apply_overrides(cfg, list(overrides))


def folder_overrides(dataset):
    if not (SHARED / dataset).is_dir():
        pytest.skip(f"needs the real images of ../shared/data/{dataset}")
    parts = []
    for split in ("train", "val"):
        folder = SHARED / dataset
        parts += [f"data.{split}.annotations={folder}/annotations/instances_{split}.json"]
        parts += [f"data.{split}.images={folder}/{split}"]
    sizes = ["data.min_size_train=[96,128]", "data.min_size_test=128", "data.max_size=160"]
    workers = ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    return [*parts, *sizes, *workers, "dataloader.train.total_batch_size=4", "dataloader.test.batch_size=3"]


@pytest.mark.parametrize("name", ["coco", "shapes", "folder"])
def test_saved_configs_load_back_the_same(name, tmp_path):
    cfg = load(name, output=tmp_path)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert not list(tmp_path.glob("*.pkl"))  # what Detectron2 writes when something can't be saved
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    LazyConfig.save(again, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()
    mapper = instantiate(again.dataloader.train.mapper)
    assert mapper.image_format == "RGB" and mapper.is_train


def test_coco_has_the_published_recipe():
    cfg = load("coco")
    assert cfg.data.num_classes == 80 and cfg.dataloader.train.total_batch_size == 16
    assert cfg.dataloader.train.dataset.name == "coco_2017_train"
    assert cfg.dataloader.test.dataset.name == cfg.dataloader.evaluator.dataset_name.name == "coco_2017_val"
    assert cfg.dataloader.train.dataset.filter_empty is False
    flip, either = instantiate(cfg.dataloader.train.mapper).augmentations.augs
    assert flip.prob == 0.5 and either.second_prob == 0.5
    (resize,) = either.first.augs
    assert resize.short_edge_length == list(range(480, 801, 32)) and resize.max_size == 1333
    before, crop, after = either.second.augs
    assert before.short_edge_length == [400, 500, 600] and crop.crop_size == (384, 600)
    assert after.short_edge_length == resize.short_edge_length and after.max_size == 1333
    (test,) = instantiate(cfg.dataloader.test.mapper).augmentations.augs
    assert test.short_edge_length == [800, 800] and test.max_size == 1333


def test_size_overrides_reach_both_mappers():
    cfg = load("folder", ["data.min_size_train=[192,256]", "data.max_size=320", "data.min_size_test=256"])
    _, either = instantiate(cfg.dataloader.train.mapper).augmentations.augs
    assert either.first.augs[0].short_edge_length == [192, 256] and either.first.augs[0].max_size == 320
    (test,) = instantiate(cfg.dataloader.test.mapper).augmentations.augs
    assert test.short_edge_length == [256, 256] and test.max_size == 320


def test_augmentation_switches_reach_the_mapper():
    cfg = load("coco", ["data.crop_prob=0", "data.flip_prob=0.2", "data.color_jitter=0.3"])
    flip, resize, *colours = instantiate(cfg.dataloader.train.mapper).augmentations.augs
    assert flip.prob == 0.2 and isinstance(resize, T.ResizeShortestEdge)
    assert [type(c) for c in colours] == [T.RandomBrightness, T.RandomContrast, T.RandomSaturation]


def test_folder_needs_its_overrides():
    with pytest.raises(ValueError, match=r"data.train names no dataset: set data.train.annotations=FILE.json"):
        resolve_num_classes(load("folder"))
    with pytest.raises(ValueError, match="no dataset given"):
        instantiate(load("folder").dataloader.train)


@pytest.mark.parametrize(
    ("dataset", "num_classes", "train", "val"), [("bccd_320", 3, 205, 87), ("coco_free_320", 80, 561, 135)]
)
def test_real_folders_train_by_overrides_alone(dataset, num_classes, train, val, tmp_path):
    cfg = load("folder", folder_overrides(dataset), tmp_path)
    resolve_num_classes(cfg)
    assert cfg.data.num_classes == cfg.dataloader.train.dataset.num_classes == num_classes
    assert len(instantiate(cfg.dataloader.train.dataset)) == train
    batch = next(iter(instantiate(cfg.dataloader.train)))
    assert len(batch) == 4
    for item in batch:
        assert item["image"].shape[0] == 3 and max(item["image"].shape) <= 160
        assert all(0 <= c < num_classes for c in item["instances"].gt_classes.tolist())
    loader = instantiate(cfg.dataloader.test)
    assert len(loader.dataset) == val and len(next(iter(loader))) == 3
    evaluator = instantiate(cfg.dataloader.evaluator)
    assert len(evaluator._coco_api.imgs) == val and len(evaluator._metadata.thing_classes) == num_classes


def test_real_folder_with_the_wrong_class_count():
    cfg = load("coco", folder_overrides("bccd_320"))
    with pytest.raises(ValueError, match=r"data.num_classes is 80, but .* has 3 classes: set data.num_classes=3"):
        resolve_num_classes(cfg)
