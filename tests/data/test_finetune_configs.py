"""The configs for fine-tuning: the recipe's model, the user's data."""

import pytest
from omegaconf import OmegaConf

from helpers import ROOT, recipe
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
    "quick/finetune_sqr_deformable_detr": "quick/sqr_deformable_detr_folder",
}


def test_every_config_is_covered():
    assert set(RECIPES) == set(FINETUNE) - {"common/finetune"}


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_the_recipes_model_on_the_users_data(name):
    cfg, base = recipe(name), recipe(RECIPES[name])
    check_calls(cfg)
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


def test_the_quick_config_starts_from_the_zoos_checkpoint():
    from detectron2.config import instantiate

    from sqr.engine import load_model_weights

    cfg = recipe("quick/finetune_sqr_deformable_detr")
    cfg.data.num_classes = 3
    report = load_model_weights(instantiate(cfg.model), cfg.train.init_checkpoint)
    assert not report.missing and not report.unexpected
    assert report.reinitialised and all(".class_embed." in name for name in report.reinitialised)
