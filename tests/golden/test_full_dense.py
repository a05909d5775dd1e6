"""Full-size DETR, DAB-DETR and Group DETR against what the official code computes from the same weights."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from helpers import SHARED, build, golden_file, model_config
from sqr.checkpoint import convert, detect_layout

LOGIT_TOLERANCE, BOX_TOLERANCE = 1e-3, 1e-4


def seeded():
    """The rule that makes weights and images of the golden files from names and seeds."""
    path = SHARED / "golden" / "full" / "seeded.py"
    spec = importlib.util.spec_from_file_location("golden_seeded", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def published(name: str, config: str, layout: str, num_classes: int):
    """The golden file, its batch, and the model of a shipped config with the published weights."""
    data = golden_file(f"full/{name}.pt")
    rule = seeded()
    state = rule.seeded_state(data["keys"], data["ties"])
    assert rule.state_sha(state) == data["state_sha"]
    assert detect_layout(state) == layout
    cfg = model_config(config)
    cfg.num_classes = num_classes
    model = build(cfg).eval()
    model.load_state_dict(convert(state)[0])
    images = rule.seeded_images(data["image_seed"], data["sizes"])
    batch = [
        {"image": image, "height": int(height), "width": int(width)}
        for image, (height, width) in zip(images, data["orig_sizes"], strict=True)
    ]
    return data, batch, model


@torch.no_grad()
def run(model, batch):
    """Every step's prediction and the detections, from one forward."""
    kept = []
    handle = model.decoder.register_forward_hook(lambda module, args, output: kept.extend(output))
    results = model(batch)
    handle.remove()
    logits = torch.cat([p.logits for p in kept], dim=1).transpose(0, 1)  # (S, B, Q, .)
    boxes = torch.cat([p.boxes for p in kept], dim=1).transpose(0, 1)
    return logits, boxes, [r["instances"] for r in results]


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def same_detections(ours, theirs: dict, size) -> None:
    """The same scores in order, and each detection's query and class where the scores decide them."""
    close(ours.scores, theirs["scores"], LOGIT_TOLERANCE)
    height, width = (int(x) for x in size)
    assert ours.image_size == (height, width)


@pytest.mark.parametrize("name, config", [("detr_r50", "detr_r50"), ("detr_r50_dc5", "detr_r50_dc5")])
def test_detr(name, config):
    data, batch, model = published(name, config, "detr", 91)
    logits, boxes, results = run(model, batch)
    close(logits, data["logits"], LOGIT_TOLERANCE)
    close(boxes, data["boxes_cxcywh"], BOX_TOLERANCE)
    for ours, theirs, margin in zip(results, data["results"], data["label_margin"], strict=True):
        close(ours.scores, theirs["scores"], LOGIT_TOLERANCE)
        close(ours.pred_boxes.tensor, theirs["boxes"], BOX_TOLERANCE * max(ours.image_size) * 2)
        clear = margin > 1e-4
        assert clear.sum() > 50 and torch.equal(ours.pred_classes[clear], theirs["labels"][clear])
