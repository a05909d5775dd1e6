"""A fifth detector in under 60 lines, by CONTRIBUTING.md's page: it trains under recollection and evaluates."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from helpers import build, model_config, random_batch
from sqr.boxes import refine_boxes
from sqr.classification import FocalClassification
from sqr.criterion import SetCriterion
from sqr.decoder import DecoderStage, RecollectingDecoder
from sqr.layers import FFN, QueryTable, box_encoding, make_heads, resize_mask
from sqr.matcher import HungarianMatcher
from sqr.meta_arch import QueryBasedDetector
from sqr.postprocessing import TopKPostprocessor
from sqr.structures import InitialQueries, QueryState, StagePrediction
from test_decoder import run_naively

DIM, CLASSES, QUERIES, STAGES = 32, 5, 7, 4


class ToyEncoder(nn.Module):
    """One feature map, projected; the memory is its tokens and which of them are padding."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Conv2d(96, DIM, 1)

    def forward(self, features, padding_mask):
        x = self.projection(features["res3"])
        return x.flatten(2).transpose(1, 2), resize_mask(padding_mask, x.shape[-2:]).flatten(1)


class ToyQueries(nn.Module):
    """Learned contents and boxes."""

    def __init__(self):
        super().__init__()
        self.content = QueryTable(num_queries=QUERIES, dim=DIM)
        self.boxes = QueryTable(num_queries=QUERIES, dim=4)

    def forward(self, memory, targets=None):
        shape = (len(memory[0]), -1, -1, -1)
        return InitialQueries(QueryState(self.content().expand(shape), self.boxes().sigmoid().expand(shape)))


class ToyStage(DecoderStage):
    """Attention inside a group, attention to the memory from the box's place, and a refined box."""

    def __init__(self):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(DIM, 4, batch_first=True)
        self.cross_attn = nn.MultiheadAttention(DIM, 4, batch_first=True)
        self.ffn = FFN(dim=DIM, hidden_dim=48)
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(3))
        self.class_embed, self.bbox_embed = make_heads(num_classes=CLASSES, dim=DIM)

    def forward(self, state, memory):
        tokens, padding_mask = memory.memory
        b, g, q, c = state.content.shape
        x = state.content.reshape(b * g, q, c)
        x = self.norms[0](x + self.self_attn(x, x, x, need_weights=False)[0]).view(b, g * q, c)
        query = x + box_encoding(state.reference, dim=c // 4).view(b, g * q, c)
        attended = self.cross_attn(query, tokens, tokens, key_padding_mask=padding_mask, need_weights=False)[0]
        x = self.norms[2](self.ffn(self.norms[1](x + attended))).view(b, g, q, c)
        boxes = refine_boxes(self.bbox_embed(x), state.reference)
        return QueryState(x, boxes.detach()), StagePrediction(self.class_embed(x), boxes)


def toy_detector(plan):
    torch.manual_seed(0)
    classification = FocalClassification()
    return QueryBasedDetector(
        num_classes=CLASSES,
        backbone=build(model_config("detr_quick").backbone),
        encoder=ToyEncoder(),
        query_generator=ToyQueries(),
        decoder=RecollectingDecoder(stages=[ToyStage() for _ in range(STAGES)], plan=plan),
        criterion=SetCriterion(matcher=HungarianMatcher(classification=classification), classification=classification),
        postprocessor=TopKPostprocessor(topk=10),
    )


def test_it_is_short():
    parts = (ToyEncoder, ToyQueries, ToyStage, toy_detector)
    assert sum(len(inspect.getsourcelines(part)[0]) for part in parts) < 80
    assert sum(len(inspect.getsourcelines(part)[0]) for part in parts[:3]) < 60


@pytest.mark.parametrize("plan", ["selective", "dense_recurrent"])
def test_it_trains_and_evaluates(plan):
    model, batch = toy_detector(plan).train(), random_batch([(64, 96), (96, 64)], [2, 3])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = sum(model(batch).values())
    before.backward()
    optimizer.step()
    assert sum(model(batch).values()) < before
    (first, _), (stages, _) = model.eval()(batch), model.forward_stages(batch)
    assert len(first["instances"]) == 10 and stages.scores.shape == (STAGES, QUERIES, CLASSES)
    base = toy_detector("sequential").eval()
    base.load_state_dict(model.state_dict())
    assert torch.equal(base.forward_stages(batch)[0].boxes, stages.boxes)


def test_folded_equals_naive():
    model = toy_detector("selective").train()
    images, mask = model.preprocess(random_batch([(64, 96), (96, 64)], [0, 0]))
    memory = model.encoder(model.backbone(images), mask)
    initial = model.query_generator(memory).state
    logits, boxes = run_naively(model.decoder, initial, memory)
    predictions = model.decoder(initial, memory)
    torch.testing.assert_close(torch.cat([p.logits for p in predictions], dim=1), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([p.boxes for p in predictions], dim=1), boxes, rtol=1e-4, atol=1e-5)
