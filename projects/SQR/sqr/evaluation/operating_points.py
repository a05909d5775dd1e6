"""Results at score thresholds: precision, recall and F1 of every class, and the confusion of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .average_precision import ClassCurve
from .ground_truth import GroundTruth
from .matching import match
from .tables import DetectionTable

IOU = 0.5


@dataclass
class OperatingCurve:
    """Precision and recall of one class by score threshold, at the first IoU of the curves (0.5), all areas.

    Attributes:
        score: ``(n,)`` the thresholds, descending: every distinct score.
        precision, recall, f1: ``(n,)`` of the detections at or above each.
    """

    score: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    def best(self) -> dict[str, float | None]:
        """The threshold of the highest F1, and the numbers there; None for a class without objects or detections."""
        if not len(self.score):
            return dict.fromkeys(("threshold", "precision", "recall", "f1"))
        at = int(np.argmax(self.f1))
        return {
            "threshold": float(self.score[at]),
            "precision": float(self.precision[at]),
            "recall": float(self.recall[at]),
            "f1": float(self.f1[at]),
        }


def operating_curve(curve: ClassCurve) -> OperatingCurve:
    """The curve of one class from its detections, sorted and matched as for AP."""
    objects = int(curve.objects[0].sum())
    true, false = (np.cumsum(x[0, 0]) for x in (curve.true, curve.false))
    last = np.flatnonzero(np.diff(curve.score, append=-np.inf) < 0)  # detections with equal scores share a threshold
    last = last[(true + false)[last] > 0] if objects else last[:0]
    found, claimed = true[last], (true + false)[last]
    return OperatingCurve(curve.score[last], found / claimed, found / max(objects, 1), 2 * found / (claimed + objects))


def confusion_matrix(detections: DetectionTable, gt: GroundTruth, thresholds: Sequence[float | None]) -> np.ndarray:
    """The confusion matrix of classes at IoU 0.5.

    Detections are matched to objects of any class in descending order of score, as in COCO's matching within a class.

    Args:
        detections: of one stage; those below their class's threshold are left out.
        gt: the objects.
        thresholds: ``K`` minimum scores; a class without one has no detections.

    Returns:
        ``(K + 1, K + 1)`` counts, rows the true class, columns the detected one; the last row are detections on no
        object, the last column objects without a detection. Detections on crowd regions are left out.
    """
    lowest = np.asarray([np.inf if t is None else t for t in thresholds])
    table = detections.take(detections.score >= lowest[detections.label])
    one_class = replace(gt, label=np.zeros_like(gt.label), category_ids=gt.category_ids[:1])
    merged = replace(table, label=np.zeros_like(table.label))
    found = match(merged, one_class, ious=(IOU,), max_dets=max(len(table), 1)).gt[0, 0]
    classes = len(gt.category_ids)
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    hit = found >= 0
    counted = hit.copy()
    counted[hit] = ~gt.crowd[found[hit]]
    np.add.at(matrix, (gt.label[found[counted]], table.label[counted]), 1)
    np.add.at(matrix, (classes, table.label[~hit]), 1)
    missed = ~gt.crowd
    missed[found[counted]] = False
    np.add.at(matrix, (gt.label[missed], classes), 1)
    return matrix
