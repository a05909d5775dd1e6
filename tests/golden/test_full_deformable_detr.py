"""The published forms of Deformable DETR at full size (ResNet-50, batch of two sizes) on seeded weights."""

from __future__ import annotations

import pytest
import torch
from full_size import check_results, check_sample, check_stages, figures, inputs, load_published

from helpers import SHARED, build, golden_file, recipe

MODELS = {
    "deformable_detr_r50": ("deformable_detr/deformable_detr_r50_50ep", "deformable_detr"),
    "deformable_detr_r50_refine": ("deformable_detr/deformable_detr_refine_r50_50ep", "deformable_detr"),
    "deformable_detr_r50_twostage": ("deformable_detr/deformable_detr_two_stage_r50_50ep", "deformable_detr"),
    "sqr_deformable_detr_r50_mmdet": ("deformable_detr/sqr_deformable_detr_r50_50ep", "mmdet_deformable_detr"),
}


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_official_model(name):
    config, layout = MODELS[name]
    cfg = recipe(config).model
    cfg.num_classes = figures(name)["logits"]["shape"][-1]
    if layout == "mmdet_deformable_detr":
        cfg.postprocessor.clip = True
    model = load_published(build(cfg), name, layout)
    batch = inputs(name)
    with torch.no_grad():
        predictions, proposals, *_ = model.decode(model.encode(batch))
        outputs = [{"instances": model.postprocessor(o.scores[-1], o.boxes[-1], o.image_size)}
                   for o in model.stage_outputs(predictions, batch)]  # fmt: skip
    check_stages(
        name,
        torch.stack([p.logits[:, 0] for p in predictions]),
        torch.stack([p.boxes[:, 0] for p in predictions]),
    )
    check_results(name, outputs)
    if proposals is not None and (SHARED / "golden").exists():
        full = golden_file(f"full/{name}.pt")
        torch.testing.assert_close(proposals.logits[:, 0], full["enc_logits"], atol=1e-3, rtol=0)
        torch.testing.assert_close(proposals.boxes[:, 0], full["enc_boxes_cxcywh"], atol=1e-4, rtol=0)


def test_the_comparison_notices_a_wrong_figure():
    name = "deformable_detr_r50"
    shape = figures(name)["logits"]["shape"]
    with pytest.raises(AssertionError):
        check_sample(torch.zeros(shape), figures(name)["logits"], 1e-3)
