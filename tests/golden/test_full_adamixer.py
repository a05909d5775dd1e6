"""AdaMixer at full size (ResNet-50, batch of two sizes) on seeded weights."""

from __future__ import annotations

import torch
from full_size import LOGITS_ATOL, check_results, check_sample, figures, inputs, load_published

from helpers import SHARED, build, golden_file, recipe
from sqr.boxes import cxcywh_to_xyxy

NAME = "sqr_adamixer_r50"
PIXELS_ATOL = 0.1


def test_equals_the_official_model():
    model = load_published(build(recipe("adamixer/sqr_adamixer_r50_12ep").model), NAME, "mmdet_adamixer")
    batch = inputs(NAME)
    with torch.no_grad():
        predictions, *_ = model.decode(model.encode(batch))
        outputs = [{"instances": model.postprocessor(o.scores[-1], o.boxes[-1], o.image_size)}
                   for o in model.stage_outputs(predictions, batch)]  # fmt: skip
    sizes = torch.tensor([(w, h, w, h) for h, w in figures(NAME)["sizes"]])[:, None]
    logits = torch.stack([p.logits[:, 0] for p in predictions])
    boxes = torch.stack([cxcywh_to_xyxy(p.boxes[:, 0] * sizes) for p in predictions])
    check_sample(logits, figures(NAME)["logits"], LOGITS_ATOL)
    check_sample(boxes, figures(NAME)["boxes_xyxy_abs"], PIXELS_ATOL)
    if (SHARED / "golden").exists():
        full = golden_file(f"full/{NAME}.pt")
        torch.testing.assert_close(logits, full["logits"], atol=LOGITS_ATOL, rtol=0)
        torch.testing.assert_close(boxes, full["boxes_xyxy_abs"], atol=PIXELS_ATOL, rtol=0)
    check_results(NAME, outputs)
