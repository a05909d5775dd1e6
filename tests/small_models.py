"""Every detector narrowed to what a test can run in a second: C 32, one encoder layer, no dropout, ResNet-18."""

from __future__ import annotations

import torch
from omegaconf import OmegaConf

from helpers import model_config, shrink

DEFORMABLE_FORMS = ["deformable_plain", "deformable_refine", "deformable_two_stage"]
DETECTORS = [*DEFORMABLE_FORMS, "adamixer", "detr", "dab_detr", "dab_deformable_detr", "group_detr", "dino"]
HYBRID = "h_deformable_detr"  # the two-stage form with an auxiliary query set
OTHER_SETS = {HYBRID: "auxiliary", "dino": "denoising"}  # what is trained beside the matched queries
SPECIAL_FIRST = ["dab_detr", "dab_deformable_detr", "group_detr"]  # the first stage differs from the others
PLANS = ["sequential", "selective", "dense", "dense_recurrent"]


def small_config(detector: str = "deformable_plain", plan: str = "selective", num_stages: int = 4):
    """A model config of 5 classes, 7 queries and random weights."""
    if detector in DEFORMABLE_FORMS:
        cfg = _deformable(detector.removeprefix("deformable_"))
    elif detector == HYBRID:
        cfg = _hybrid()
    elif detector == "adamixer":
        cfg = _adamixer()
    elif detector in ("dab_deformable_detr", "dino"):
        cfg = shrink(model_config(f"{detector}_r50"))
        if detector == "dino":
            cfg.query_generator.denoising.num_queries = 4  # 2 groups of 2 objects
    else:
        cfg = _dense(detector)
    cfg.decoder.stages.num_stages = num_stages
    cfg.decoder.plan = plan
    return cfg


def _deformable(form: str):
    cfg = shrink(model_config())
    cfg.decoder.stages.refine = form != "plain"
    cfg.decoder.stages.two_stage = form == "two_stage"
    if form == "two_stage":
        cfg.query_generator = OmegaConf.create(
            {
                "_target_": "sqr.detectors.deformable_detr.ProposalQueries",
                "num_queries": 7,
                "num_classes": "${..num_classes}",
                "dim": "${..encoder.dim}",
            }
        )
    return cfg


def _hybrid():
    cfg = _deformable("two_stage")
    cfg.query_generator.num_auxiliary = 15
    cfg.query_generator.mixed_selection = True
    cfg.decoder.stages.look_forward_twice = True
    return cfg


def _adamixer():
    cfg = model_config("adamixer_quick")
    cfg.num_classes = 5
    cfg.query_generator.num_queries = 7
    cfg.encoder.neck.num_norm_groups = 8
    cfg.decoder.stages.dim = 32
    cfg.decoder.stages.ffn_dim = 48
    return cfg


def _dense(detector: str):
    """Detectors with one dense memory."""
    cfg = model_config(f"{detector}_r50")
    cfg.num_classes = 5
    cfg.backbone.stages.depth = 18
    del cfg.backbone.stages.stride_in_1x1
    cfg.encoder.in_channels = 512
    cfg.encoder.dim = 32
    cfg.encoder.layers.num_layers = 1
    cfg.encoder.layers.num_heads = 4
    cfg.encoder.layers.ffn_dim = 48
    cfg.encoder.layers.dropout = 0.0
    cfg.query_generator.num_queries = 7
    if detector == "group_detr":
        cfg.query_generator.num_groups = 2
    return cfg


def lively(model):
    """Random weights behind the backbone: the published initialisation makes boxes and sampling points all alike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1 and not name.startswith("backbone."):
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model
