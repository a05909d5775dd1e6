"""Every shipped config: it instantiates, its optimizer's patterns fit, its model runs, it saves and loads back."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from helpers import ROOT, random_batch, recipe
from sqr.recollection import Plan

CONFIGS = ROOT / "configs"
RECIPES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in CONFIGS.rglob("*.py")
    if path.relative_to(CONFIGS).parts[0] not in ("common", "models") and not path.name.startswith("finetune_")
)
STRATEGIES = {"sqr": Plan.selective, "dqr": Plan.dense, "dqrr": Plan.dense_recurrent}


def test_recipes_are_found():
    assert len(RECIPES) >= 15
    assert {r.split("/")[0] for r in RECIPES} >= {"deformable_detr", "quick"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds_and_runs(name, tmp_path):
    cfg = recipe(name)
    if name.endswith("_folder"):
        cfg.data.num_classes = 6  # only the data says how many; the others are built as they stand
    model = instantiate(cfg.model)
    num_stages = 7 if "7stages" in name else 6
    strategy = STRATEGIES.get(name.split("/")[1].split("_")[0], Plan.sequential)
    assert model.decoder.plan == strategy(num_stages)
    if strategy is not Plan.dense_recurrent:
        assert model.decoder.inference_plan == Plan.sequential(num_stages)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    cfg.optimizer.params.model = None
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}
    scheduler = instantiate(cfg.lr_multiplier)
    assert 0 < scheduler(0.0) <= 1 and scheduler(1 - 1e-6) < 0.2
    with torch.no_grad():
        (output,) = model.eval()(random_batch([(160, 192)], [0]))
    # DETR gives a detection a query, the others a number of them, of all that there are
    if "pretrained" in cfg.model:  # of transformers
        queries, topk = cfg.model.config.num_queries, 300
    else:
        queries = cfg.model.query_generator.num_queries
        topk = cfg.model.postprocessor.get("topk", queries)
    expected = min(topk, queries * cfg.data.num_classes)
    assert len(output["instances"]) == expected
    assert output["instances"].pred_classes.max() < cfg.data.num_classes
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert LazyConfig.load(str(tmp_path / "config.yaml")).model.decoder.plan == cfg.model.decoder.plan


def test_published_hyper_parameters():
    cfg = recipe("deformable_detr/sqr_deformable_detr_r50_50ep")
    assert cfg.dataloader.train.total_batch_size == 32
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.train.clip_grad.max_norm) == (2e-4, 1e-4, 0.1)
    assert dict(cfg.optimizer.params.lr_multipliers) == {
        "backbone": 0.1,
        "sampling_offsets": 0.1,
        "reference_points": 0.1,
    }
    scheduler = instantiate(cfg.lr_multiplier)
    assert [scheduler(epoch / 50) for epoch in (0, 39.9, 40.1)] == pytest.approx([1, 1, 0.1])
    assert cfg.train.max_iter == 184823
    assert not cfg.dataloader.train.dataset.filter_empty


def test_recipes_follow_the_code_that_their_figure_is_of():
    """mmdetection's (AdaMixer, both SQR releases) or detrex's; the others are the official code's."""
    official = (False, False, None, False)  # images with objects only, grouped by aspect, longest before the crop, clip
    expected = {
        "adamixer/sqr_adamixer_r50_12ep": (True, True, None, False),
        "adamixer/sqr_adamixer_300q_7stages_r101_36ep": (True, True, 1333, False),
        "deformable_detr/sqr_deformable_detr_r50_12ep": (False, True, 4200, True),
        "deformable_detr/sqr_deformable_detr_r50_50ep": (False, True, 4200, True),
        "dab_detr/sqr_dab_detr_r50_50ep": (True, True, None, True),
        **dict.fromkeys(
            (
                "deformable_detr/deformable_detr_r50_50ep", "deformable_detr/h_deformable_detr_two_stage_r50_12ep",
                "dab_detr/dab_detr_r50_50ep", "detr/detr_r50_500ep", "dino/sqr_dino_r50_12ep",
            ),
            official,
        ),
    }  # fmt: skip
    for name, values in expected.items():
        cfg = recipe(name)
        train = cfg.dataloader.train
        longest = train.mapper.augmentations.get("crop_max_size")
        clip = cfg.model.postprocessor.get("clip", False)
        assert (train.dataset.filter_empty, train.aspect_ratio_grouping, longest, clip) == values, name


def test_detrexs_recipe_of_sqr_dab_detr():
    cfg = recipe("dab_detr/sqr_dab_detr_r50_50ep")
    model = instantiate(cfg.model)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["backbone.stem.conv1.weight"]
    x = model.query_generator.anchors.weight.detach()[:, :2].sigmoid()
    assert 0 <= x.min() < 0.02 and 0.98 < x.max() <= 1 and float(x.std()) == pytest.approx(12**-0.5, rel=0.05)
    cfg.optimizer.params.model = model
    groups = instantiate(cfg.optimizer).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert {(g["lr"], g["weight_decay"]) for g in groups} == {(1e-4, 1e-4), (1e-5, 1e-4), (1e-4, 0.0)}
    undecayed = [names[id(p)] for g in groups if not g["weight_decay"] for p in g["params"]]
    assert undecayed and all("norm" in name for name in undecayed)
    scheduler = instantiate(cfg.lr_multiplier)
    assert cfg.train.max_iter == 375000
    assert [scheduler(i / 375000) for i in (0, 299999, 300001)] == pytest.approx([1, 1, 0.1])
