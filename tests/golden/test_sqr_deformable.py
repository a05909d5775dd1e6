"""The released SQR training of Deformable DETR: every set, every loss, every gradient."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from helpers import golden_file
from sqr.boxes import xyxy_to_cxcywh
from sqr.checkpoint import convert, detect_layout
from sqr.classification import FocalClassification
from sqr.criterion import SetCriterion
from sqr.decoder import RecollectingDecoder
from sqr.detectors.deformable_detr import LearnedQueries, deformable_stages
from sqr.layers import SinePositionEmbedding
from sqr.layers.deformable_encoder import DeformableEncoder, deformable_encoder_layers
from sqr.matcher import HungarianMatcher
from sqr.targets import Targets


class Levels(nn.Module):
    """Stands for the neck: the golden features are what comes out of it."""

    def forward(self, features, padding_mask=None):
        return features


class SmallDetector(nn.Module):
    """The golden file's model: everything behind the neck."""

    def __init__(self, config: dict, plan: str):
        super().__init__()
        shape = {
            "dim": config["embed_dim"],
            "num_heads": config["num_heads"],
            "num_levels": config["num_levels"],
            "num_points": config["num_points"],
            "ffn_dim": config["ffn_dim"],
            "dropout": 0.0,
        }
        self.encoder = DeformableEncoder(
            neck=Levels(),
            layers=deformable_encoder_layers(num_layers=config["num_encoder_layers"], **shape),
            position_embedding=SinePositionEmbedding(dim=config["embed_dim"], offset=config["pos_offset"]),
            num_levels=config["num_levels"],
            dim=config["embed_dim"],
        )
        self.query_generator = LearnedQueries(num_queries=config["num_queries"], dim=config["embed_dim"])
        self.decoder = RecollectingDecoder(
            stages=deformable_stages(
                num_stages=config["num_decoder_layers"], num_classes=config["num_classes"], **shape
            ),
            plan=plan,
        )

    def forward(self, features, padding_mask):
        memory = self.encoder(features, padding_mask)
        return self.decoder(self.query_generator(memory).state, memory)


@functools.cache
def golden() -> dict:
    return golden_file("sqr_deformable.pt")


def build(plan: str):
    data = golden()
    model = SmallDetector(data["config"], plan)
    assert detect_layout(data["state_dict"]) == "mmdet_deformable_detr"
    state, report = convert(data["state_dict"])
    assert not report.dropped
    model.load_state_dict(state)
    height, width = (int(x) for x in data["batch_hw"])
    mask = torch.ones(2, height, width, dtype=torch.bool)
    labels, boxes = [], []
    for i, (h, w) in enumerate(data["image_sizes_hw"]):
        mask[i, :h, :w] = False
        labels.append(data["gt_classes"][i])
        boxes.append(xyxy_to_cxcywh(data["gt_boxes_xyxy"][i]) / torch.tensor([w, h, w, h]))
    return model, mask, Targets.from_lists(labels, boxes), report


def criterion() -> SetCriterion:
    focal = FocalClassification()
    return SetCriterion(matcher=HungarianMatcher(classification=focal), classification=focal)


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def official_loss(losses: dict, kind: str, index: int, last: int) -> torch.Tensor:
    name = {"class": "loss_cls", "l1": "loss_bbox", "giou": "loss_iou"}[kind]
    return losses[name if index == last else f"d{index}.{name}"].squeeze()


def test_evaluation_is_the_sequential_chain():
    model, mask, _, _ = build("selective")
    predictions = model.eval()(golden()["features"], mask)
    close(torch.stack([p.logits[:, 0] for p in predictions]), golden()["baseline_logits"])
    close(torch.stack([p.boxes[:, 0] for p in predictions]), golden()["baseline_boxes_cxcywh"])


@pytest.mark.parametrize("plan, kind", [("sequential", "baseline"), ("selective", "sqr")])
def test_training_reproduces_every_set_loss_and_gradient(plan, kind):
    data = golden()
    model, mask, targets, report = build(plan)
    predictions = model.train()(data["features"], mask)
    close(torch.cat([p.logits for p in predictions], dim=1).transpose(0, 1), data[f"{kind}_logits"])
    close(torch.cat([p.boxes for p in predictions], dim=1).transpose(0, 1), data[f"{kind}_boxes_cxcywh"])

    losses = criterion()(predictions, model.decoder.plan, targets)
    official = data[f"{kind}_losses"]
    last = model.decoder.plan.total - 1
    for key, ours in losses.items():
        loss, step = key.removeprefix("loss_").split("/stage")
        sets = model.decoder.plan.slice(int(step))
        theirs = sum(official_loss(official, loss, i, last) for i in range(sets.start, sets.stop))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    total = sum(losses.values())
    torch.testing.assert_close(total, sum(v.sum() for v in official.values()), rtol=1e-4, atol=0)
    if kind != "sqr":
        return

    torch.testing.assert_close(total, data["sqr_total"].squeeze(), rtol=1e-4, atol=0)
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    compared = 0
    for key, theirs in data["sqr_grads"].items():
        ours = gradients.pop(report.renamed[key])
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm() + 1e-7, key
        compared += 1
    assert compared == len(data["sqr_grads"]) == 176
    assert not gradients, f"parameters without an official gradient: {list(gradients)}"
