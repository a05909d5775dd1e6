"""DETR's class loss, cost and post-processing, and its dilated backbone, against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sqr.classification import SoftmaxClassification
from sqr.layers.backbone import dilated_c5_stages
from sqr.postprocessing import PerQueryPostprocessor, TopKPostprocessor
from sqr.structures import BatchTotals


def test_loss_is_the_weighted_mean_of_each_group():
    logits = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))  # 5 classes, 2 objects
    image = torch.tensor([[0, 1]] * 3)
    group = torch.arange(3)[:, None].expand(-1, 2)
    query = torch.tensor([[0, 1], [2, 3], [3, 0]])
    labels = torch.tensor([4, 0])
    ours = SoftmaxClassification(no_object_weight=0.1).loss(
        logits, (image, group, query), labels.expand(3, -1), torch.tensor(2.0), BatchTotals(objects=2, images=2)
    )
    weight = torch.ones(6)
    weight[5] = 0.1
    for g in range(3):
        target = torch.full((2, 4), 5)
        target[0, query[g, 0]] = 4
        target[1, query[g, 1]] = 0
        torch.testing.assert_close(ours[g], F.cross_entropy(logits[:, g].transpose(1, 2), target, weight))


def test_loss_without_objects_is_finite():
    empty = torch.empty(3, 0, dtype=torch.int64)
    totals = BatchTotals(objects=0, images=2)
    loss = SoftmaxClassification().loss(torch.zeros(2, 3, 4, 6), (empty,) * 3, empty, torch.tensor(1.0), totals)
    torch.testing.assert_close(loss, torch.full((3,), 6.0).log())


def test_cost_and_probabilities_leave_no_object_out():
    logits = torch.tensor([[0.0, 1.0, 3.0]])
    p = logits.softmax(-1)
    classification = SoftmaxClassification()
    torch.testing.assert_close(classification.probabilities(logits), p[:, :2])
    torch.testing.assert_close(classification.cost(logits, torch.tensor([1])), -p[:, 1:2])


def test_every_query_gives_one_detection_in_query_order():
    scores = torch.tensor([[0.1, 0.3], [0.6, 0.2], [0.2, 0.4]])
    boxes = torch.tensor([[-5.0, 0, 10, 10], [1, 2, 3, 4], [0, 0, 200, 8]])
    result = PerQueryPostprocessor()(scores, boxes, (20, 100))
    assert result.pred_classes.tolist() == [1, 0, 1] and result.query_ids.tolist() == [0, 1, 2]
    assert torch.equal(result.scores, torch.tensor([0.3, 0.6, 0.4])) and torch.equal(result.pred_boxes.tensor, boxes)
    clipped = PerQueryPostprocessor(clip=True)(scores, boxes.clone(), (20, 100)).pred_boxes.tensor
    assert clipped.tolist() == [[0, 0, 10, 10], [1, 2, 3, 4], [0, 0, 100, 8]]
    for clip, right in ((False, 200), (True, 100)):
        best = TopKPostprocessor(topk=3, clip=clip)(scores, boxes.clone(), (20, 100))
        assert best.query_ids.tolist() == [1, 2, 0] and best.pred_boxes.tensor[1].tolist() == [0, 0, right, 8]


def test_dc5_dilates_all_but_the_first_block():
    blocks = dilated_c5_stages(depth=50)[-1]
    assert [block.conv2.dilation for block in blocks] == [(1, 1), (2, 2), (2, 2)]
    assert all(block.conv2.stride == (1, 1) and block.conv1.stride == (1, 1) for block in blocks)
    assert blocks[0].shortcut.stride == (1, 1)
    with pytest.raises(ValueError, match="depth=34"):
        dilated_c5_stages(depth=34)
