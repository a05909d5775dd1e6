"""``model.ignore_padding``: what a model says of an image does not depend on what else is in its batch."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d

from helpers import build, random_batch
from small_models import DETECTORS, HYBRID, lively, small_config
from sqr.export import DeployedDetector
from sqr.layers import FixedStatsBatchNorm, MaskedGroupNorm
from sqr.layers.padding import PaddingZeroer

SIZES = [(70, 100), (130, 61), (64, 64), (33, 190)]  # odd ones, one that needs no padding of its own, tall and wide
NORMS = (torch.nn.BatchNorm2d, FrozenBatchNorm2d, FixedStatsBatchNorm)


def small_model(detector: str, *, ignore_padding: bool = True):
    """A model whose backbone, as a trained one, makes something of padding."""
    cfg = small_config(detector)
    cfg.ignore_padding = ignore_padding
    cfg.size_divisibility = 64
    model = lively(build(cfg)).eval()
    generator = torch.Generator().manual_seed(2)
    for module in model.backbone.modules():
        if isinstance(module, NORMS):
            module.bias.data.copy_(torch.randn(module.bias.shape, generator=generator) * 0.3)
    return model


def largest_differences(model, batch) -> tuple[float, float]:
    """Of scores, and of boxes as shares of the image, between the batch and each of its images alone."""
    scores, boxes = [], []
    for together, inputs in zip(model.forward_stages(batch), batch, strict=True):
        (alone,) = model.forward_stages([inputs])
        extent = torch.tensor([inputs["width"], inputs["height"]] * 2)
        scores.append((together.scores - alone.scores).abs().max())
        boxes.append(((together.boxes - alone.boxes) / extent).abs().max())
    return float(max(scores)), float(max(boxes))


@pytest.mark.parametrize("detector", [*DETECTORS, HYBRID])
def test_an_image_is_the_same_alone_and_beside_larger_ones(detector):
    batch = random_batch(SIZES, [0] * len(SIZES))
    scores, boxes = largest_differences(small_model(detector), batch)
    assert scores < 1e-4 and boxes < 1e-3  # AdaMixer amplifies rounding
    scores, boxes = largest_differences(small_model(detector, ignore_padding=False), batch)
    assert scores > 3e-3 and boxes > 3e-3  # as published: what is compared does see padding


def test_padding_takes_no_proposal_from_the_image():
    model = small_model("deformable_two_stage")
    queries = model.query_generator
    # the feature of a token that cannot propose is what this class scores highest
    queries.enc_output.bias.data.copy_(queries.class_embed.weight[0])
    scores, boxes = largest_differences(model, random_batch([(64, 64), (64, 190)], [0, 0]))
    assert scores < 1e-4 and boxes < 1e-3


@pytest.mark.parametrize("detector", ["deformable_two_stage", "adamixer", "detr"])
def test_what_is_exported_is_the_same_on_any_canvas(detector):
    model = small_model(detector)
    (inputs,) = random_batch(SIZES[:1], [0])
    (expected,) = model.forward_stages([inputs])
    images = torch.full((2, 3, 200, 210), 255.0)  # what lies beyond an image's size is ignored
    images[0, :, :70, :100] = inputs["image"]
    deployed = DeployedDetector(model=model, outputs="raw")
    logits, _ = deployed(images, torch.tensor([[70, 100], [200, 210]]))
    probabilities = model.criterion.classification.probabilities(logits[0])
    torch.testing.assert_close(probabilities, expected.scores[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("detector", ["deformable_two_stage", "dab_detr"])
def test_training_sees_what_an_evaluation_sees(detector):
    model = small_model(detector).train()
    batch = random_batch(SIZES[:2], [1, 1])
    together, alone = (model.decode(model.encode(inputs))[0][0] for inputs in (batch, batch[:1]))
    torch.testing.assert_close(together.logits[:1], alone.logits, atol=1e-4, rtol=0)
    losses = model(batch)
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_canvas_that_a_level_does_not_divide_is_an_error_that_names_the_setting():
    model = small_model("deformable_plain")
    model.size_divisibility = 32  # the fourth level has stride 64
    model.forward_stages(random_batch([(64, 64)], [0]))
    with pytest.raises(ValueError, match=r"levels of \[\(12, 8\).*set model.size_divisibility to the coarsest stride"):
        model.forward_stages(random_batch([(90, 64)], [0]))


def test_statistics_leave_padding_out():
    norm = MaskedGroupNorm(2, 6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 5, 4)
    mask = torch.zeros(2, 5, 4, dtype=torch.bool)
    mask[0, 3:] = mask[1, :, 2:] = True
    out = norm(x, mask)
    torch.testing.assert_close(out[:1, :, :3], norm(x[:1, :, :3]))
    torch.testing.assert_close(out[1:, :, :, :2], norm(x[1:, :, :, :2]))
    assert not out.masked_select(mask[:, None]).any()
    assert norm.state_dict().keys() == torch.nn.GroupNorm(2, 6).state_dict().keys()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = norm(x.bfloat16(), mask)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, out, atol=0.1, rtol=0)


class SqueezeAndExcitation(torch.nn.Module):
    """A backbone of one level that scales its channels by their mean over the map."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=8, padding=1)

    def forward(self, images):
        x = self.conv(images)
        return {"level": x * x.mean((2, 3), keepdim=True)}


def test_a_backbone_that_reads_the_whole_map_is_told(caplog):
    model = small_model("deformable_plain")
    model.padding_zeroer.warn_of_leak(model.backbone)
    assert not caplog.records
    network = SqueezeAndExcitation()
    PaddingZeroer(network).warn_of_leak(network)
    assert "the backbone reads padding by other operations than convolutions" in caplog.text
