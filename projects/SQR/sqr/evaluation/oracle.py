"""Oracle AP: the AP if every detection were taken from its best stage.

Follows the released analysis code of "Enhanced Training of Query-Based Object Detection via Selective Query
Recollection" (CVPR 2023), separately for each IoU threshold:

* a true positive of the last stage takes the highest score that the same query gave the same class at any
  earlier stage whose box overlaps the same object by the threshold or more;
* a false positive takes the lowest score that the same query gave the same class at any earlier stage at
  which it was a false positive too;
* the matching of the last stage is kept.

The ground truth is used, so this is an upper bound, not a method. Most of its gain is the ground truth choosing among
noise, so compare it with the oracle by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .average_precision import COCO_IOUS, ClassCurve, class_curves, mean_precision, precision_at_recalls
from .chance import partners
from .ground_truth import AREA_RANGES, GroundTruth
from .matching import Matches, pair_iou
from .tables import DetectionTable, RowIndex


def oracle_scores(
    tables: Sequence[DetectionTable],
    matches: Sequence[Matches],
    gt: GroundTruth,
    *,
    exchange: np.random.Generator | None = None,
) -> np.ndarray:
    """Scores of the last stage's detections after keeping the best stage of each.

    Args:
        tables: ``S`` tables of detections with query ids.
        matches: ``S`` matches whose first area range is "all"; with equal thresholds.
        gt: the objects.
        exchange: give every detection the score changes of another one (:mod:`.chance`): the oracle by chance.

    Returns:
        ``(T, D)`` scores, ``D`` detections of the last stage.
    """
    last, found = tables[-1], matches[-1].gt[:, 0]
    scores = np.repeat(last.score[None], len(found), axis=0)
    counts = np.append(~gt.ignored(), False)
    true, false = counts[found], (found < 0) & matches[-1].kept
    rows, present = _earlier_rows(tables, matches, len(gt.category_ids))
    partner = None if exchange is None else partners(last.score, present, exchange)
    for table, stage, row, there in zip(tables[:-1], matches[:-1], rows, present, strict=True):
        if not there.any():
            continue
        score = table.score[row]
        if partner is not None:
            score = last.score + (score - last.score)[partner]
        for t, iou in enumerate(matches[-1].ious):
            better = np.flatnonzero(true[t] & there & (score > scores[t]))
            target = found[t, better]
            overlap = pair_iou(table.box[row[better]].astype(np.float64), gt.box[target], gt.crowd[target])
            better = better[overlap >= iou]
            scores[t, better] = score[better]
            lower = np.flatnonzero(false[t] & there & (stage.gt[t, 0, row] < 0) & (score < scores[t]))
            scores[t, lower] = score[lower]
    return scores


def _earlier_rows(
    tables: Sequence[DetectionTable], matches: Sequence[Matches], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """``(E, D)`` row of every last-stage detection at each earlier stage, and whether it is there and takes part."""
    key = _keys(tables[-1], tables, num_classes)
    rows = np.full((len(tables) - 1, len(key)), -1, dtype=np.int64)
    present = np.zeros(rows.shape, dtype=bool)
    for s, (table, stage) in enumerate(zip(tables[:-1], matches[:-1], strict=True)):
        if len(table):
            rows[s] = RowIndex(_keys(table, tables, num_classes)).find(key)
            present[s] = (rows[s] >= 0) & stage.kept[rows[s]]
    return rows, present


def oracle_curves(
    last: DetectionTable, matches: Matches, gt: GroundTruth, scores: np.ndarray
) -> list[list[ClassCurve]]:
    """Class curves over all areas under the oracle's scores: one list per threshold, since scores differ by
    threshold.

    Args:
        last: the last stage's detections.
        matches: their matches.
        gt: the objects.
        scores: ``(T, D)`` from :func:`oracle_scores`.
    """
    curves = []
    for t in range(len(scores)):
        one = replace(matches, gt=matches.gt[t : t + 1, :1], ious=matches.ious[t : t + 1])
        curves.append(class_curves(last, one, gt, area_ranges=AREA_RANGES[:1], scores=scores[t]))
    return curves


def oracle_precision(curves: Sequence[list[ClassCurve]], image_weights: np.ndarray | None = None) -> np.ndarray:
    """``(10, 101, K, 1)`` precision over all areas of :func:`oracle_curves`' result."""
    return np.concatenate([precision_at_recalls(c, image_weights) for c in curves])


def oracle_metrics(precision: np.ndarray) -> dict:
    """``AP``, ``AP50``, ``AP75`` and ``per_class``, in percent, of :func:`oracle_precision`'s result."""
    return {
        "AP": mean_precision(precision[:, :, :, 0]),
        "AP50": mean_precision(precision[COCO_IOUS.index(0.5), :, :, 0]),
        "AP75": mean_precision(precision[COCO_IOUS.index(0.75), :, :, 0]),
        "per_class": [mean_precision(precision[:, :, k, 0]) for k in range(precision.shape[2])],
    }


def _keys(table: DetectionTable, tables: Sequence[DetectionTable], num_classes: int) -> np.ndarray:
    num_queries = 1 + max((int(t.query.max()) for t in tables if len(t)), default=0)
    return (table.image.astype(np.int64) * num_queries + table.query) * num_classes + table.label
