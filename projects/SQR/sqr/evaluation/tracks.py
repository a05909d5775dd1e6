"""Single queries followed through the stages: what stage strips and report galleries show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .analysis import StageAnalysis
from .matching import pair_iou
from .stage_errors import Cases, StageErrors
from .tables import DetectionTable


@dataclass
class QueryTrack:
    """One query of one image through ``S`` stages.

    Attributes:
        image: position of the image.
        query: query id.
        gt: row of the object matched by the last stage's true positive; -1 for a false positive.
        label: ``(S,)`` predicted classes; -1 where the stage has no row for the query.
        score: ``(S,)`` scores of those classes.
        box: ``(S, 4)`` absolute ``(x, y, width, height)``.
        iou: ``(S,)`` IoU with the object, or, for a false positive, with the nearest object of the predicted class;
            NaN where the objects are not known.
        verdict: one per stage: "true", "false" or "ignored" by its own matching, "faded" or "exacerbated" for such a
            last stage, "unjudged" if the objects are not known, "absent" without a row.
        best_stage: the earlier stage, from 0, that was best by the definitions; -1 where none was better.
        severity: by how much it was better; galleries are sorted by it.
    """

    image: int
    query: int
    gt: int
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray
    iou: np.ndarray
    verdict: list[str]
    best_stage: int
    severity: float


def severity(cases: Cases, last: DetectionTable, chosen: np.ndarray) -> np.ndarray:
    """``(E, n)`` by how much the last stage is worse than each earlier one in the chosen cases; -1 where it is not.

    This is the score lost by a faded true positive, or the score gained by an exacerbated false positive (all of its
    score if the earlier prediction was right).
    """
    score = last.score[cases.row[chosen]].astype(np.float64)
    gain = np.where(cases.was_true[:, chosen], score, cases.score_gain[:, chosen])
    return np.where(cases.hit[:, chosen], gain, -1.0)


def worst_cases(analysis: StageAnalysis, cases: Cases, *, count: int, per_image: int = 2) -> np.ndarray:
    """Positions of the ``count`` most severe bad cases, at most ``per_image`` from one image, worst first."""
    bad = np.flatnonzero(cases.bad)
    if not len(bad):
        return bad
    worst = severity(cases, analysis.predictions.queries[-1], bad).max(axis=0)
    order = bad[np.lexsort((cases.row[bad], -worst))]
    seen: dict[int, int] = {}
    chosen = []
    for n in order.tolist():
        image = int(cases.image[n])
        if seen.get(image, 0) < per_image:
            seen[image] = seen.get(image, 0) + 1
            chosen.append(n)
        if len(chosen) == count:
            break
    return np.asarray(chosen, dtype=np.int64)


def follow(analysis: StageAnalysis, errors: StageErrors, cases: Cases, chosen: Sequence[int]) -> list[QueryTrack]:
    """Tracks of chosen cases.

    Args:
        analysis: the analysis that ``errors`` belongs to.
        errors: at the IoU threshold of interest.
        cases: ``errors.true`` or ``errors.false``.
        chosen: positions in ``cases``.
    """
    return [_follow_one(analysis, errors, cases, int(n)) for n in chosen]


def _follow_one(analysis: StageAnalysis, errors: StageErrors, cases: Cases, n: int) -> QueryTrack:
    tables, gt = analysis.predictions.queries, analysis.gt
    rows = [*cases.earlier[:, n].tolist(), int(cases.row[n])]
    score, label, iou = np.zeros(len(tables)), np.full(len(tables), -1), np.zeros(len(tables))
    box = np.zeros((len(tables), 4))
    verdict = ["absent"] * len(tables)
    target = int(cases.gt[n])
    image = int(cases.image[n])
    inside = np.flatnonzero(gt.image == image)
    for s, (table, row) in enumerate(zip(tables, rows, strict=True)):
        if row < 0:
            continue
        score[s], label[s], box[s] = table.score[row], table.label[row], table.box[row]
        verdict[s] = errors.verdict(s, row)
        objects = np.asarray([target]) if target >= 0 else inside[gt.label[inside] == label[s]]
        if len(objects):
            repeated = np.repeat(box[s : s + 1], len(objects), axis=0)
            iou[s] = pair_iou(repeated, gt.box[objects], gt.crowd[objects]).max()
    bad = bool(cases.bad[n])
    if bad:
        verdict[-1] = "faded" if target >= 0 else "exacerbated"
    worse = severity(cases, tables[-1], np.asarray([n]))[:, 0]
    return QueryTrack(
        image=image,
        query=int(tables[-1].query[cases.row[n]]),
        gt=target,
        label=label,
        score=score,
        box=box,
        iou=iou,
        verdict=verdict,
        best_stage=int(worse.argmax()) if bad else -1,
        severity=float(worse.max()) if bad else 0.0,
    )


def counterpart(analysis: StageAnalysis, errors: StageErrors, image: int, box: np.ndarray) -> QueryTrack | None:
    """The query of another model whose last-stage box has the highest IoU with a box, at least 0.1.

    Args:
        analysis: the other model's.
        errors: its errors at the same IoU threshold.
        image: position of the image.
        box: ``(4,)`` absolute ``(x, y, width, height)``.
    """
    best = None
    for cases in (errors.true, errors.false):
        inside = np.flatnonzero(cases.image == image)
        if not len(inside):
            continue
        last = analysis.predictions.queries[-1]
        boxes = last.box[cases.row[inside]].astype(np.float64)
        iou = pair_iou(boxes, np.repeat(box[None].astype(np.float64), len(boxes), 0), np.zeros(len(boxes), bool))
        # Among equal or nearly equal ones, prefer the higher score, which a user would see.
        value = iou + 0.5 * last.score[cases.row[inside]]
        n = int(np.argmax(np.where(iou >= 0.1, value, -1.0)))
        if iou[n] >= 0.1 and (best is None or value[n] > best[0]):
            best = (float(value[n]), cases, int(inside[n]))
    return None if best is None else _follow_one(analysis, errors, best[1], best[2])
