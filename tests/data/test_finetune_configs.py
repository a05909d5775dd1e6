"""The configs for fine-tuning: the recipe's model, the user's data."""

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import nn

from helpers import ROOT, recipe
from sqr.checkpoint.loading import load_model_weights
from sqr.config import check_calls
from sqr.data import resolve_num_classes

CONFIGS = ROOT / "configs"
FINETUNE = sorted(str(p.relative_to(CONFIGS).with_suffix("")) for p in CONFIGS.rglob("finetune_*.py"))
RECIPES = {
    "adamixer/finetune_sqr_adamixer_r50": "adamixer/sqr_adamixer_r50_12ep",
    "dab_detr/finetune_sqr_dab_detr_r50": "dab_detr/sqr_dab_detr_r50_50ep",
    "deformable_detr/finetune_sqr_deformable_detr_r50": "deformable_detr/sqr_deformable_detr_r50_50ep",
    "deformable_detr/finetune_sqr_deformable_detr_two_stage_r50": (
        "deformable_detr/sqr_deformable_detr_two_stage_r50_50ep"
    ),
    "detr/finetune_sqr_detr_r50": "detr/sqr_detr_r50_300ep",
}
QUICK = [
    f"quick/finetune_sqr_{detector}"
    for detector in (
        "adamixer", "dab_deformable_detr", "dab_detr", "deformable_detr", "detr", "group_detr", "h_deformable_detr"
    )
]  # fmt: skip


def test_every_config_is_covered():
    assert {*RECIPES, *QUICK} == set(FINETUNE) - {"common/finetune"}


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_the_recipes_model_on_the_users_data(name):
    cfg, base = recipe(name), recipe(RECIPES[name])
    check_calls(cfg)
    assert cfg.model.ignore_padding and cfg.model.size_divisibility >= 32
    base.model.ignore_padding, base.model.size_divisibility = True, cfg.model.size_divisibility
    assert OmegaConf.to_container(cfg.model, resolve=False) == OmegaConf.to_container(base.model, resolve=False)
    assert cfg.model.decoder.plan == "selective"
    assert cfg.optimizer.lr == base.optimizer.lr / 2
    assert cfg.lr_multiplier.max_iter == cfg.train.max_iter < base.train.max_iter
    assert cfg.train.output_dir.endswith(name.split("/")[1])
    with pytest.raises(ValueError, match=r"data.root=FOLDER"):
        resolve_num_classes(cfg)


@pytest.mark.parametrize("name", ["detr/finetune_sqr_detr_r50", "detr/sqr_detr_r50_300ep"])
def test_a_root_wins_over_the_recipes_data(name, tmp_path):
    import dataset_builders as build

    cfg = recipe(name)
    cfg.data.root = str(build.write_yolo(tmp_path / "set"))
    cfg.data.num_classes = None
    resolve_num_classes(cfg)
    assert cfg.model.num_classes == 3


def shared_with_the_folder_config(name):
    """A quick config's model and that of its folder config, both without what the backbone decides."""
    models = [recipe(x).model for x in (name, name.replace("finetune_sqr_", "") + "_folder")]
    assert models[0].decoder.plan == "selective"
    models[1].decoder.plan = "selective"
    for model in models:
        for key in ("backbone", "pixel_mean", "pixel_std", "encoder.in_feature", "encoder.in_channels"):
            OmegaConf.update(model, key, None)
        if "neck" in model.encoder:
            model.encoder.neck.in_channels = None
    return [OmegaConf.to_container(model, resolve=False) for model in models]


@pytest.mark.parametrize("name", QUICK)
def test_quick_configs_start_from_lite0(name):
    cfg = recipe(name)
    check_calls(cfg)
    finetuned, base = shared_with_the_folder_config(name)
    assert finetuned == base
    assert cfg.model.backbone.name == "tf_efficientnet_lite0"
    first, *more = cfg.train.init_checkpoint.split(" + ")
    assert first == "timm://tf_efficientnet_lite0"
    assert cfg.train.output_dir.endswith(name.split("/")[1])
    detector = nn.Module()
    detector.backbone = instantiate(cfg.model.backbone)
    assert not load_model_weights(detector, first).missing
    if more:  # the whole detector, but for the convolutions between backbone and encoder and the heads for its classes
        cfg.model.num_classes = 3
        report = load_model_weights(instantiate(cfg.model), cfg.train.init_checkpoint)
        new = ("encoder.neck.convs", "query_generator.query_embed", "decoder.stages")
        assert all(x.startswith(new) for x in report.missing)
        assert all(".class_embed." in x for x in report.missing if x.startswith("decoder"))
        assert "query_generator.class_embed.weight" in report.loaded


@pytest.mark.parametrize("name", ["deformable_detr", "detr"])
def test_without_lite0_they_start_from_shapes_aloud(name, monkeypatch, caplog):
    monkeypatch.setattr("sqr.checkpoint.backbones.has_packaged_weights", lambda name: False)
    cfg = recipe(f"quick/finetune_sqr_{name}")
    assert "EfficientNet-Lite0" in caplog.text and "detectron2-sqr[timm]" in caplog.text
    cfg.model.num_classes = 3
    report = load_model_weights(
        instantiate(cfg.model), cfg.train.init_checkpoint, modules=OmegaConf.to_object(cfg.train.init_modules)
    )
    assert not any(x.startswith("backbone.") for x in report.missing)
    if name == "deformable_detr":
        assert not report.missing and not report.unexpected
        assert report.heads.dropped and all(".class_embed." in x for x in report.heads.dropped)
