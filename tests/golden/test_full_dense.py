"""DETR, DAB-DETR and Group DETR at full size (ResNet-50, batch of two sizes) on seeded weights."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from full_size import check_results, check_sample, check_stages, figures, inputs, load_published

from helpers import SHARED, build, golden_file, model_config


def published(name: str, config: str, layout: str):
    cfg = model_config(config)
    cfg.num_classes = figures(name)["options"]["num_classes"]
    return load_published(build(cfg), name, layout)


@torch.no_grad()
def run(model, batch):
    """Every step's logits ``(S, B, Q, .)`` and boxes, and the detections, from one forward."""
    predictions, forward_sets = [], model.decoder.forward_sets

    def recorded(*args):
        sets = forward_sets(*args)
        predictions.extend(sets[0])
        return sets

    with patch.object(model.decoder, "forward_sets", recorded):
        detections = model(batch)
    logits = torch.stack([p.logits[:, 0] for p in predictions])
    return logits, torch.stack([p.boxes[:, 0] for p in predictions]), detections


@pytest.mark.parametrize("name", ["detr_r50", "detr_r50_dc5"])
def test_detr_equals_the_official_model(name):
    logits, boxes, outputs = run(published(name, name, "detr"), inputs(name))
    check_stages(name, logits, boxes)
    if not (SHARED / "golden").exists():
        return
    data = golden_file(f"full/{name}.pt")
    for output, theirs, margin in zip(outputs, data["results"], data["label_margin"], strict=True):
        ours = output["instances"]  # in query order, so row by row
        torch.testing.assert_close(ours.scores, theirs["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.pred_boxes.tensor, theirs["boxes"], atol=0.1, rtol=0)
        clear = margin > 1e-4
        assert clear.sum() > 50 and torch.equal(ours.pred_classes[clear], theirs["labels"][clear])


@pytest.mark.parametrize("name", ["dab_detr_r50", "dab_deformable_detr_r50"])
def test_dab_detr_equals_the_official_model(name):
    layout = name.removesuffix("_r50")
    logits, boxes, outputs = run(published(name, name, layout), inputs(name))
    check_stages(name, logits, boxes)
    check_results(name, outputs)


DETREX = {
    "detrex_dab_detr_r50": ("dab_detr_r50", "detrex_dab_detr"),
    "detrex_sqr_dab_detr_r50": ("dab_detr_r50", "detrex_dab_detr"),
    "detrex_group_detr_r50": ("group_detr_r50", "detrex_group_detr"),
}


@pytest.mark.parametrize("name", DETREX)
def test_equals_detrex_image_by_image(name):
    """detrex evaluates without a padding mask, so only its images run alone are right; and it clips boxes."""
    config, layout = DETREX[name]
    model = published(name, config, layout)
    model.postprocessor.clip = True
    full = golden_file(f"full/{name}.pt")["single_image"] if (SHARED / "golden").exists() else None
    for i, (image, figure) in enumerate(zip(inputs(name), figures(name)["single_image"], strict=True)):
        logits, boxes, outputs = run(model, [image])
        check_sample(logits[-1, 0], figure["logits"], 1e-3)
        check_sample(boxes[-1, 0], figure["boxes_cxcywh"], 1e-4)
        if full is not None:
            torch.testing.assert_close(logits[-1, 0], full[i]["logits"], atol=1e-3, rtol=0)
            torch.testing.assert_close(boxes[-1, 0], full[i]["boxes_cxcywh"], atol=1e-4, rtol=0)
            scores = full[i]["result"]["scores"] if "result" in full[i] else full[i]["scores"]
            torch.testing.assert_close(outputs[0]["instances"].scores, scores, atol=1e-4, rtol=0)
