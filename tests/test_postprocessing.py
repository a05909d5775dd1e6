"""Duplicates lose score by their overlap with a better detection of their class, in training code and exports alike."""

import pytest
import torch
from torchvision.ops import box_iou

from sqr.postprocessing import PerQueryPostprocessor, TopKPostprocessor, decay_duplicates


def case(queries=12, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(queries, 2, generator=generator) * 40
    boxes = torch.cat((low, low + 20 + 40 * torch.rand(queries, 2, generator=generator)), dim=-1)
    return torch.rand(queries, classes, generator=generator), boxes


def pairs(instances):
    return list(zip(instances.query_ids.tolist(), instances.pred_classes.tolist(), strict=True))


def literally(scores, labels, boxes, exponent):
    iou, expected = box_iou(boxes, boxes), scores.clone()
    for i in range(len(scores)):
        rivals = [
            iou[i, j].item()
            for j in range(len(scores))
            if labels[i] == labels[j] and (scores[j] > scores[i] or (scores[j] == scores[i] and j < i))
        ]
        expected[i] *= 1 - max(rivals, default=0.0) ** exponent
    return expected


def test_the_rule_literally_and_for_a_batch():
    scores, boxes = case()
    best, labels = scores.max(-1)
    best[3], labels[3], boxes[3] = best[5], labels[5], boxes[5]  # a tie: the first of the two keeps its score
    expected = literally(best, labels, boxes, 4)
    torch.testing.assert_close(decay_duplicates(best, labels, boxes, 4), expected)
    assert expected[3] == best[3] and expected[5] == 0
    batch = decay_duplicates(*(torch.stack([x, x]) for x in (best, labels, boxes)), 4)
    torch.testing.assert_close(batch, torch.stack([expected] * 2))


@pytest.mark.parametrize("make", [TopKPostprocessor, PerQueryPostprocessor])
def test_detections_are_decayed_and_keep_their_query_and_box(make):
    scores, boxes = case()
    plain, decayed = make()(scores, boxes, (100, 100)), make(duplicate_decay=4)(scores, boxes, (100, 100))
    assert sorted(pairs(plain)) == sorted(pairs(decayed))
    assert torch.equal(decayed.pred_boxes.tensor, boxes[decayed.query_ids])
    before = scores[decayed.query_ids, decayed.pred_classes]
    torch.testing.assert_close(decayed.scores, literally(before, decayed.pred_classes, boxes[decayed.query_ids], 4))
    assert (decayed.scores < before).any() and decayed.scores.max() == scores.max()
    if make is TopKPostprocessor:
        assert (decayed.scores.diff() <= 0).all()


def test_a_selection_of_the_best_is_decayed_as_if_all_were_there():
    scores, boxes = case(queries=30)
    few = TopKPostprocessor(topk=10, duplicate_decay=4)(scores, boxes, (100, 100))
    every = TopKPostprocessor(topk=90, duplicate_decay=4)(scores, boxes, (100, 100))
    found = dict(zip(pairs(every), every.scores.tolist(), strict=True))
    for pair, score in zip(pairs(few), few.scores.tolist(), strict=True):
        assert score == pytest.approx(found[pair])


def test_degenerate_boxes_and_bad_exponents():
    scores, boxes = torch.tensor([[0.9], [0.8]]), torch.zeros(2, 4)
    assert TopKPostprocessor(duplicate_decay=4)(scores, boxes, (9, 9)).scores.tolist() == pytest.approx([0.9, 0.8])
    with pytest.raises(ValueError, match="duplicate_decay=0: a positive exponent"):
        TopKPostprocessor(duplicate_decay=0)
