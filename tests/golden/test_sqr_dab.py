"""detrex's SQR training of DAB-DETR: every set, every loss, every gradient.

detrex gives its decoder no padding mask, so here it is withheld from the memory after encoding; and in evaluation
detrex gives its encoder none either.
"""

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
from sqr.detectors.dab_detr import AnchorQueries, dab_detr_stages
from sqr.layers import SinePositionEmbedding
from sqr.layers.dense_encoder import DenseEncoder, dense_encoder_layers
from sqr.matcher import HungarianMatcher
from sqr.targets import Targets


class SmallDetector(nn.Module):
    """The golden file's model: everything behind the backbone."""

    def __init__(self, config: dict, plan: str):
        super().__init__()
        shape = {
            "dim": config["embed_dim"],
            "num_heads": config["num_heads"],
            "ffn_dim": config["ffn_dim"],
            "dropout": 0.0,
            "activation": "prelu",
        }
        self.encoder = DenseEncoder(
            layers=dense_encoder_layers(num_layers=config["num_encoder_layers"], **shape),
            position_embedding=SinePositionEmbedding(dim=config["embed_dim"], temperature=config["pos_temperature"]),
            in_channels=config["in_channels"],
            dim=config["embed_dim"],
            scale_position=True,
        )
        self.query_generator = AnchorQueries(num_queries=config["num_queries"], dim=config["embed_dim"])
        self.decoder = RecollectingDecoder(
            stages=dab_detr_stages(num_stages=config["num_decoder_layers"], num_classes=config["num_classes"], **shape),
            plan=plan,
        )

    def forward(self, feature, padding_mask):
        memory = self.encoder({"res5": feature}, padding_mask)
        memory.padding_mask = torch.zeros_like(memory.padding_mask)
        return self.decoder(self.query_generator(memory).state, memory)


@functools.cache
def golden() -> dict:
    return golden_file("sqr_dab.pt")


def build(plan: str):
    data = golden()
    model = SmallDetector(data["config"], plan)
    assert detect_layout(data["state_dict"]) == "detrex_dab_detr"
    state, report = convert(data["state_dict"])
    model.load_state_dict(state)
    return model, report


def batch():
    """The padding mask and the objects."""
    data = golden()
    stride = 32
    height, width = (stride * size for size in data["feature_res5"].shape[-2:])
    mask = torch.ones(2, height, width, dtype=torch.bool)
    labels, boxes = [], []
    for i, (h, w) in enumerate(data["image_sizes_hw"]):
        mask[i, :h, :w] = False
        labels.append(data["gt_classes"][i])
        boxes.append(xyxy_to_cxcywh(data["gt_boxes_xyxy"][i]) / torch.tensor([w, h, w, h]))
    return mask, Targets.from_lists(labels, boxes)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("plan", ["sequential", "selective"])
def test_evaluation_is_the_sequential_chain(plan):
    model, _ = build(plan)
    mask, _ = batch()
    last = model.eval()(golden()["feature_res5"], torch.zeros_like(mask))[-1]
    close(last.logits[:, 0], golden()["infer_logits"])
    close(last.boxes[:, 0], golden()["infer_boxes_cxcywh"])


def test_training_reproduces_every_set_loss_and_gradient():
    data = golden()
    model, report = build("selective")
    mask, targets = batch()
    predictions = model.train()(data["feature_res5"], mask)
    close(torch.cat([p.logits for p in predictions], dim=1).transpose(0, 1), data["sqr_logits"])
    close(torch.cat([p.boxes for p in predictions], dim=1).transpose(0, 1), data["sqr_boxes_cxcywh"])

    focal = FocalClassification()
    criterion = SetCriterion(
        matcher=HungarianMatcher(classification=focal, class_weight=2.0), classification=focal, class_weight=1.0
    )
    plan = model.decoder.plan
    losses = criterion(predictions, plan, targets)
    official = data["sqr_losses"]
    assert len(official) == 3 * plan.total
    for key, ours in losses.items():
        loss, step = key.removeprefix("loss_").split("/stage")
        name = {"class": "loss_class", "l1": "loss_bbox", "giou": "loss_giou"}[loss]
        sets = plan.slice(int(step))
        keys = [name if i == plan.total - 1 else f"{name}_{i}" for i in range(sets.start, sets.stop)]
        torch.testing.assert_close(ours, sum(official[k] for k in keys), rtol=1e-4, atol=0)
    total = sum(losses.values())
    torch.testing.assert_close(total, data["sqr_total"], rtol=1e-4, atol=0)

    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for key, theirs in data["sqr_grads"].items():
        # the heads' gradients are listed under the decoder's names for them
        name = report.renamed[key.replace("transformer.decoder.bbox_embed", "bbox_embed")]
        ours = gradients.pop(name)
        if theirs.norm() < 1e-6:
            assert ours.norm() < 1e-5, key
        else:
            assert (ours - theirs).norm() <= 1e-3 * theirs.norm(), key
    assert not gradients, f"parameters without an official gradient: {list(gradients)}"
