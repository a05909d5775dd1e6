"""COCO's greedy matching, vectorised over images, classes, IoU thresholds and area ranges.

pycocotools visits detections one by one. Two facts allow vectorisation. A detection that does not overlap any object
of its class by the smallest threshold is never matched, so only *candidate pairs* matter. And
cells, that is (image, class) pairs, are independent, so the first candidate detections of all
cells are matched at once, then the second ones, and so on, in as many rounds as the most crowded cell
has candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .ground_truth import AREA_RANGES, GroundTruth
from .tables import DetectionTable


@dataclass
class Matches:
    """The match of each detection; ``D`` detections, ``T`` IoU thresholds, ``A`` area ranges.

    Attributes:
        gt: ``(T, A, D)`` int32 row of the ground truth, -1 where unmatched.
        rank: ``(D,)`` rank of a detection among those of its image and class, by descending score.
        kept: ``(D,)`` bool, False for detections beyond ``max_dets`` of their image and class.
        order: ``(D,)`` rows in the order of (image, label, descending score), ties in input order.
        ious: the thresholds.
    """

    gt: np.ndarray
    rank: np.ndarray
    kept: np.ndarray
    order: np.ndarray
    ious: tuple[float, ...]


@dataclass
class _Pairs:
    """Candidate pairs of a detection and an object: their rows and IoU, sorted by (round, detection, IoU, gt
    row)."""

    det: np.ndarray
    gt: np.ndarray
    iou: np.ndarray
    round: np.ndarray


def pair_iou(det: np.ndarray, gt: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of corresponding boxes, operation by operation as in pycocotools' ``bbIou``.

    Args:
        det: ``(n, 4)`` float64 ``(x, y, width, height)``.
        gt: ``(n, 4)`` float64, the same.
        crowd: ``(n,)`` bool; the denominator is then the detection's area.

    Returns:
        ``(n,)`` float64, 0 where boxes do not overlap.
    """
    right = np.minimum(det[:, 2] + det[:, 0], gt[:, 2] + gt[:, 0])
    bottom = np.minimum(det[:, 3] + det[:, 1], gt[:, 3] + gt[:, 1])
    width = right - np.maximum(det[:, 0], gt[:, 0])
    height = bottom - np.maximum(det[:, 1], gt[:, 1])
    overlap = width * height
    det_area = det[:, 2] * det[:, 3]
    union = np.where(crowd, det_area, det_area + gt[:, 2] * gt[:, 3] - overlap)
    hit = (width > 0) & (height > 0)
    return np.divide(overlap, union, out=np.zeros(len(det)), where=hit)


def match(
    detections: DetectionTable,
    gt: GroundTruth,
    *,
    ious: Sequence[float],
    area_ranges: Sequence[tuple[float, float]] = AREA_RANGES[:1],
    max_dets: int = 100,
) -> Matches:
    """Match detections to objects as ``COCOeval.evaluateImg`` does.

    In every image and class, detections are matched in descending order of score: each to the unmatched object with the
    highest IoU at or above the threshold (of equal IoUs, the later one), preferring objects that are not ignored; crowd
    regions can be matched any number of times.

    Args:
        detections: one stage's table; its labels and images index those of ``gt``.
        gt: the objects.
        ious: the thresholds.
        area_ranges: square pixels, bounds included; objects outside are ignored.
        max_dets: detections per image and class that take part, highest scores first.
    """
    num_classes = max(len(gt.category_ids), 1)
    cell = detections.image.astype(np.int64) * num_classes + detections.label
    order, rank_in_order = _order_in_cells(cell, detections.score)
    rank = np.empty_like(rank_in_order)
    rank[order] = rank_in_order
    kept = rank < max_dets
    rows = order[kept[order]]
    pairs = _candidate_pairs(detections, gt, cell, rows, floor=min(min(ious), 1 - 1e-10))
    matched = _greedy(pairs, gt, len(detections), ious, area_ranges)
    return Matches(gt=matched, rank=rank, kept=kept, order=order, ious=tuple(float(i) for i in ious))


def _order_in_cells(cell: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows by (cell, descending score, input order) and the rank of each of them in its cell."""
    order = np.lexsort((-score, cell))
    in_order = cell[order]
    starts = np.flatnonzero(np.diff(in_order, prepend=-1))
    lengths = np.diff(starts, append=len(cell))
    return order, np.arange(len(cell)) - np.repeat(starts, lengths)


def _candidate_pairs(
    detections: DetectionTable, gt: GroundTruth, cell: np.ndarray, rows: np.ndarray, floor: float
) -> _Pairs:
    gt_cell = gt.image.astype(np.int64) * max(len(gt.category_ids), 1) + gt.label
    gt_order = np.argsort(gt_cell, kind="stable")
    gt_sorted = gt_cell[gt_order]
    first = np.searchsorted(gt_sorted, cell[rows], side="left")
    count = np.searchsorted(gt_sorted, cell[rows], side="right") - first
    # Pair every kept detection with every object of its cell: position within the cell = running number -
    # start.
    det = np.repeat(np.arange(len(rows)), count)
    within = np.arange(len(det)) - np.repeat(np.cumsum(count) - count, count)
    other = gt_order[np.repeat(first, count) + within]
    boxes = detections.box[rows].astype(np.float64)
    iou = pair_iou(boxes[det], gt.box[other], gt.crowd[other])
    near = iou >= floor
    det, other, iou = det[near], other[near], iou[near]
    candidates, place = np.unique(det, return_inverse=True)
    _, rank = _order_in_cells(cell[rows[candidates]], np.zeros(len(candidates)))
    turn = rank[place] if len(place) else place
    by = np.lexsort((other, iou, det, turn))
    return _Pairs(det=rows[det[by]], gt=other[by], iou=iou[by], round=turn[by])


def _greedy(
    pairs: _Pairs,
    gt: GroundTruth,
    num_dets: int,
    ious: Sequence[float],
    area_ranges: Sequence[tuple[float, float]],
) -> np.ndarray:
    thresholds = np.minimum(np.asarray(ious, dtype=np.float64), 1 - 1e-10)
    counts = np.stack([~gt.ignored(tuple(r)) for r in area_ranges], axis=1)  # (T, A): objects that are not ignored
    taken = np.zeros((len(gt), len(thresholds), len(area_ranges)), dtype=bool)
    matched = np.full((len(thresholds), len(area_ranges), num_dets), -1, dtype=np.int32)
    total = len(pairs.det)
    bounds = np.flatnonzero(np.diff(pairs.round, prepend=-1, append=-1)) if total else np.zeros(1, dtype=np.int64)
    for start, end in itertools.pairwise(bounds.tolist()):
        part = slice(start, end)
        objects = pairs.gt[part]
        free = ~taken[objects] | gt.crowd[objects, None, None]
        free &= (pairs.iou[part, None] >= thresholds)[:, :, None]
        # Pairs are sorted by IoU, so the running number orders them; objects that are not ignored come
        # first.
        key = np.arange(start, end)[:, None, None] + total * counts[objects][:, None, :]
        key = np.where(free, key, -1)
        heads = np.flatnonzero(np.diff(pairs.det[part], prepend=-1))
        best = np.maximum.reduceat(key, heads, axis=0)  # (detections of this round, thresholds, areas)
        which, t, a = np.nonzero(best >= 0)
        chosen = pairs.gt[best[which, t, a] % total]
        matched[t, a, pairs.det[part][heads][which]] = chosen
        taken[chosen, t, a] = True
    return matched
