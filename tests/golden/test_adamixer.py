"""The released AdaMixer and its SQR training: every stage, every loss, every gradient."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers import golden_file
from sqr.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from sqr.checkpoint import convert, detect_layout
from sqr.classification import FocalClassification
from sqr.criterion import SetCriterion
from sqr.decoder import RecollectingDecoder
from sqr.detectors.adamixer import FullImageQueries, adamixer_stages
from sqr.matcher import HungarianMatcher
from sqr.structures import PyramidMemory, QueryState
from sqr.targets import Targets


class SmallDetector(nn.Module):
    """The golden file's model: everything behind the neck."""

    def __init__(self, config: dict, plan: str):
        super().__init__()
        self.query_generator = FullImageQueries(num_queries=config["num_queries"], dim=config["content_dim"])
        self.decoder = RecollectingDecoder(
            stages=adamixer_stages(
                num_stages=config["num_stages"],
                num_classes=config["num_classes"],
                dim=config["content_dim"],
                num_heads=config["num_heads"],
                ffn_dim=config["ffn_dim"],
                in_points=config["in_points"],
                out_points=config["out_points"],
                num_feature_groups=config["n_groups"],
            ),
            plan=plan,
        )


@functools.cache
def golden() -> dict:
    return golden_file("adamixer.pt")


def build(plan: str):
    data = golden()
    published = data["state_dict"] | data["query_state_dict"]
    assert detect_layout(published) == "mmdet_adamixer"
    state, report = convert(published)
    assert not report.dropped
    model = SmallDetector(data["config"], plan)
    model.load_state_dict(state)
    shapes = tuple(tuple(x.shape[2:]) for x in data["features"])
    sizes = torch.tensor([(w, h) for h, w in data["image_sizes_hw"]]).float()
    tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in data["features"]], dim=1)
    strides = tuple(data["config"]["strides"])
    scales = torch.tensor(strides).float().log2().expand(len(sizes), -1)
    memory = PyramidMemory(tokens, shapes, strides, sizes, scales)
    return model, memory, report


def targets() -> Targets:
    data = golden()
    boxes = [
        xyxy_to_cxcywh(x) / torch.tensor([w, h, w, h])
        for x, (h, w) in zip(data["gt_boxes_xyxy"], data["image_sizes_hw"], strict=True)
    ]
    return Targets.from_lists(data["gt_classes"], boxes)


def criterion() -> SetCriterion:
    focal = FocalClassification()
    matcher = HungarianMatcher(classification=focal, l1_format="xyxy")
    return SetCriterion(matcher=matcher, classification=focal, l1_format="xyxy")


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), atol=atol, rtol=0)


def run_stage(model, memory, number: int, state: QueryState):
    stage = model.decoder.stages[number]
    state, prediction = stage(state, stage.prepare(memory))
    boxes = cxcywh_to_xyxy(prediction.boxes[:, 0] * memory.image_sizes.repeat(1, 2)[:, None])
    return state, prediction.logits[:, 0], boxes


def check_stage(official: dict, state: QueryState, logits, boxes) -> None:
    close(logits, official["cls"])
    close(boxes, official["boxes"], atol=1e-2)
    close(state.reference[:, 0, :, :2], official["xyzr"][..., :2], atol=1e-2)  # pixels
    close(state.reference[:, 0, :, 2:], official["xyzr"][..., 2:])
    close(state.content[:, 0], official["content"])


@pytest.mark.parametrize("gradients", [True, False])
def test_each_stage_from_the_official_input(gradients):
    model, memory, _ = build("selective")
    model.eval()
    state = model.query_generator(memory).state
    close(state.reference[:, 0], golden()["init_xyzr"])
    close(state.content[:, 0], golden()["init_content"])
    for number, official in enumerate(golden()["stages"]):
        with torch.set_grad_enabled(gradients):
            check_stage(official, *run_stage(model, memory, number, state))
        state = QueryState(official["content"][:, None], official["xyzr"][:, None])


def in_double(model, memory):
    """This model's random weights multiply rounding errors by about ten a stage: float64 leaves the golden's own."""
    return model.double(), replace(memory, tokens=memory.tokens.double(), image_sizes=memory.image_sizes.double())


def test_the_cascade_from_its_own_outputs():
    model, memory = in_double(*build("selective")[:2])
    state = model.eval().query_generator(memory).state
    for number, official in enumerate(golden()["stages"][:3]):
        state, logits, boxes = run_stage(model, memory, number, state)
        check_stage(official, state, logits, boxes)


@pytest.mark.parametrize("plan, kind", [("sequential", "baseline"), ("selective", "sqr")])
def test_training_reproduces_every_loss_and_gradient(plan, kind):
    model, memory, report = build(plan)
    model, memory = in_double(model, memory)
    predictions = model.train().decoder(model.query_generator(memory).state, memory)
    losses = criterion()(predictions, model.decoder.plan, targets())
    names = {"class": "loss_cls", "l1": "loss_bbox", "giou": "loss_iou"}
    official = golden()[f"{kind}_losses"]
    assert len(losses) == 18
    for key, ours in losses.items():
        loss, step = key.removeprefix("loss_").split("/stage")
        theirs = official[f"stage{int(step) - 1}_{names[loss]}"]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    if kind != "sqr":
        return

    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    errors = {}
    for key, theirs in golden()["sqr_grads"].items():
        ours = gradients.pop(report.renamed[key])
        if key == "bbox_head.0.iof_tau":  # all start boxes are the same: only rounding errors reach it
            assert ours.norm() < 1e-6
        else:
            errors[key] = float((ours - theirs).norm() / theirs.norm())
    assert len(errors) == 197
    assert list(gradients) == ["query_generator.init_content.weight"]
    # Ours are float64; the official ones are float32 through six stages, each of which multiplies rounding errors by
    # about ten on these weights. No such path leads from a loss to the heads, whose gradients agree far better.
    heads = {key: error for key, error in errors.items() if ".fc_cls" in key or ".fc_reg" in key or "_fcs." in key}
    assert len(heads) == 72
    assert max(heads.values()) < 2e-4, max(heads, key=heads.get)
    assert max(errors.values()) < 0.015, max(errors, key=errors.get)
