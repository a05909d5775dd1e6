"""COCO average precision from matched detections, equal to pycocotools to the last bit, and under image
weights.

Weights make the bootstrap cheap: drawing an image twice equals giving its detections and objects weight
two, so a resample needs neither matching nor sorting. A detection of weight two stands for two adjacent
equal detections, and the precision envelope over recall is the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .ground_truth import AREA_NAMES, AREA_RANGES, GroundTruth
from .matching import Matches
from .tables import DetectionTable

COCO_IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass
class ClassCurve:
    """Detections of one class in descending order of score: ``n`` rows.

    Attributes:
        image: ``(n,)`` image position.
        score: ``(n,)`` what they are sorted by.
        rank: ``(n,)`` rank among the detections of its image and class, by descending score.
        true: ``(T, A, n)`` bool, matched to an object that is not ignored.
        false: ``(T, A, n)`` bool, unmatched and not ignored.
        objects: ``(A, M)`` bool over the class's ``M`` objects: those not ignored.
        object_image: ``(M,)``.
    """

    image: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    true: np.ndarray
    false: np.ndarray
    objects: np.ndarray
    object_image: np.ndarray

    def within(self, max_dets: int) -> ClassCurve:
        """The curve of at most ``max_dets`` detections per image."""
        keep = self.rank < max_dets
        rows = {name: getattr(self, name)[..., keep] for name in ("image", "score", "rank", "true", "false")}
        return replace(self, **rows)


def class_curves(
    detections: DetectionTable,
    matches: Matches,
    gt: GroundTruth,
    *,
    area_ranges: Sequence[tuple[float, float]] = AREA_RANGES,
    scores: np.ndarray | None = None,
) -> list[ClassCurve]:
    """Sort every class's detections by score and mark true and false positives.

    Args:
        detections: the table that was matched.
        matches: its matches, for these area ranges in this order.
        gt: the objects.
        area_ranges: those of the matching.
        scores: ``(D,)`` scores to sort by instead of the table's (used by the oracle).

    Notes:
        pycocotools records a match by the object's annotation id and reads id 0 as "no match". An object with
        id 0 can therefore never be found there, nor here.
    """
    counts = np.stack([~gt.ignored(tuple(r)) for r in area_ranges])
    area = detections.area()
    outside = np.stack([(area < low) | (area > high) for low, high in area_ranges])
    order = matches.order[matches.kept[matches.order]]
    score = detections.score if scores is None else scores
    label = detections.label[order]
    real_id = np.append(gt.id != 0, False)
    curves = []
    by_label = np.argsort(label, kind="stable")
    bounds = np.searchsorted(label[by_label], np.arange(len(gt.category_ids) + 1))
    for k in range(len(gt.category_ids)):
        rows = order[by_label[bounds[k] : bounds[k + 1]]]
        rows = rows[np.argsort(-score[rows], kind="stable")]
        found = matches.gt[:, :, rows]
        on_object = (found >= 0) & real_id[found]
        area_axis = np.arange(len(area_ranges))[None, :, None]
        counted = np.append(counts, np.ones((len(counts), 1), bool), axis=1)[area_axis, found]
        ignored = ~counted | (~on_object & outside[None][:, :, rows])
        members = gt.label == k
        curves.append(
            ClassCurve(
                image=detections.image[rows],
                score=score[rows],
                rank=matches.rank[rows],
                true=on_object & ~ignored,
                false=~on_object & ~ignored,
                objects=counts[:, members],
                object_image=gt.image[members],
            )
        )
    return curves


def precision_at_recalls(curves: Sequence[ClassCurve], image_weights: np.ndarray | None = None) -> np.ndarray:
    """``(T, R, K, A)`` interpolated precision at 101 recalls; -1 for a class without objects in an area
    range.

    Args:
        curves: one per class.
        image_weights: ``(N,)`` weight of each image; 1 for all when None.
    """
    num_ious, num_areas = curves[0].true.shape[:2]
    precision = -np.ones((num_ious, len(RECALLS), len(curves), num_areas))
    for k, curve in enumerate(curves):
        weight = None if image_weights is None else image_weights[curve.image]
        for a in range(num_areas):
            if image_weights is None:
                positives = np.count_nonzero(curve.objects[a])
            else:
                positives = image_weights[curve.object_image][curve.objects[a]].sum()
            if positives == 0:
                continue
            true, false = _running(curve.true[:, a], weight), _running(curve.false[:, a], weight)
            height = true / (false + true + np.spacing(1))
            height = np.maximum.accumulate(height[:, ::-1], axis=1)[:, ::-1]
            recall = true / positives
            for t in range(num_ious):
                at = np.searchsorted(recall[t], RECALLS, side="left")
                reached = at < len(recall[t])
                precision[t, :, k, a] = 0.0
                precision[t, reached, k, a] = height[t, at[reached]]
    return precision


def recalls(curves: Sequence[ClassCurve]) -> np.ndarray:
    """``(T, K, A)`` share of the objects found by any detection; -1 for a class without objects in an area range."""
    recall = -np.ones((curves[0].true.shape[0], len(curves), curves[0].true.shape[1]))
    for k, curve in enumerate(curves):
        positives = np.count_nonzero(curve.objects, axis=1)  # (A,)
        found = np.count_nonzero(curve.true, axis=-1)  # (T, A)
        recall[:, k, positives > 0] = found[:, positives > 0] / positives[positives > 0]
    return recall


def _running(flags: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    return np.cumsum(flags if weight is None else flags * weight, axis=1).astype(np.float64)


def mean_precision(precision: np.ndarray) -> float:
    """Mean in percent over the valid entries, NaN if there are none, as in pycocotools."""
    present = precision[precision > -1]
    return float(np.mean(present) * 100) if present.size else float("nan")


def coco_metrics(precision: np.ndarray, class_names: Sequence[str]) -> dict:
    """The numbers Detectron2's ``COCOEvaluator`` reports for boxes, in percent.

    Args:
        precision: ``(10, 101, K, 4)`` from :func:`precision_at_recalls` with COCO's thresholds and area
            ranges.
        class_names: ``K`` names.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` and ``per_class``, a list of ``K`` values.
    """
    metrics = {
        "AP": mean_precision(precision[:, :, :, 0]),
        "AP50": mean_precision(precision[COCO_IOUS.index(0.5), :, :, 0]),
        "AP75": mean_precision(precision[COCO_IOUS.index(0.75), :, :, 0]),
    }
    for a, name in enumerate(AREA_NAMES[1:], start=1):
        metrics["AP" + name[0]] = mean_precision(precision[:, :, :, a])
    metrics["per_class"] = [mean_precision(precision[:, :, k, 0]) for k in range(len(class_names))]
    return metrics
