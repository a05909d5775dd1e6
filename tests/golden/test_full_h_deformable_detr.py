"""H-DETR (hybrid matching on two-stage Deformable DETR) at full size on seeded weights."""

from __future__ import annotations

import torch
from full_size import check_results, check_stages, figures, inputs, load_published

from helpers import SHARED, build, golden_file, recipe

RECIPE = "deformable_detr/h_deformable_detr_two_stage_r50_12ep"


def stacked(predictions) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([p.logits[:, 0] for p in predictions]), torch.stack([p.boxes[:, 0] for p in predictions])


def test_equals_the_official_model():
    name = "h_deformable_detr_r50_twostage"
    cfg = recipe(RECIPE).model
    cfg.num_classes = figures(name)["logits"]["shape"][-1]
    model = load_published(build(cfg), name, "h_deformable_detr")
    batch = inputs(name)
    with torch.no_grad():
        predictions, proposals, *_ = model.decode(model.encode(batch))
        outputs = [{"instances": model.postprocessor(o.scores[-1], o.boxes[-1], o.image_size)}
                   for o in model.stage_outputs(predictions, batch)]  # fmt: skip
    check_stages(name, *stacked(predictions))
    check_results(name, outputs)
    if (SHARED / "golden").exists():
        full = golden_file(f"full/{name}.pt")
        torch.testing.assert_close(proposals.logits[:, 0], full["enc_logits"], atol=1e-3, rtol=0)
        torch.testing.assert_close(proposals.boxes[:, 0], full["enc_boxes_cxcywh"], atol=1e-4, rtol=0)


def test_equals_the_detrex_model():
    """detrex evaluates without a padding mask: a batch is compared that way, and the first image on its own."""
    name = "detrex_h_deformable_detr_r50_twostage"
    cfg = recipe(RECIPE).model
    cfg.postprocessor.topk = 300
    cfg.postprocessor.clip = True
    model = load_published(build(cfg), name, "detrex_h_deformable_detr")
    batch = inputs(name)
    with torch.no_grad():
        images, mask = model.preprocess(batch)
        memory = model.encoder(model.backbone(images), torch.zeros_like(mask))
        predictions = model.decoder(model.query_generator(memory).state, memory)
    check_stages(name, *stacked(predictions))
    if (SHARED / "golden").exists():
        alone = golden_file(f"full/{name}.pt")["single_image"][0]
        with torch.no_grad():
            predictions, *_ = model.decode(model.encode(batch[:1]))
            (output,) = model.stage_outputs(predictions, batch[:1])
        logits, boxes = stacked(predictions)
        torch.testing.assert_close(logits[-1, 0], alone["logits"], atol=1e-3, rtol=0)
        torch.testing.assert_close(boxes[-1, 0], alone["boxes_cxcywh"], atol=1e-4, rtol=0)
        instances = model.postprocessor(output.scores[-1], output.boxes[-1], output.image_size)
        torch.testing.assert_close(instances.scores, alone["result"]["scores"], atol=1e-4, rtol=0)
