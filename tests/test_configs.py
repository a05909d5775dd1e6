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
