"""A two-stage detector on an image with fewer encoder tokens than it has queries."""

import pytest
import torch

from helpers import build, random_batch
from small_models import small_config


@pytest.mark.parametrize("size", [(16, 24), (8, 160)])
def test_a_strip_trains_and_is_predicted_on(size):
    cfg = small_config("deformable_two_stage")
    cfg.query_generator.num_queries = 60
    model = build(cfg)
    batch = random_batch([size], [2])
    losses = model.train()(batch)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        (result,) = model.eval()(batch)
    assert result["instances"].pred_boxes.tensor.isfinite().all() and len(result["instances"]) >= 60
