"""True positives that fade and false positives that are exacerbated on the way to the last stage.

Definitions of "Enhanced Training of Query-Based Object Detection via Selective Query Recollection" (CVPR
2023), as computed by its released analysis code. Each query counts as one detection, of its best class. Every stage is
matched separately and greedily, by COCO's rules at one IoU threshold, over all areas. With ``p`` the last stage's
score of a query:

* A last-stage true positive of IoU ``u`` *faded* if at an earlier stage the same query predicted the same
  class with IoU >= ``u`` to the same object (not matched again) and score > ``p``.
* A last-stage false positive was *exacerbated* if at an earlier stage the same query predicted the same class
  and was a true positive there (any score), or was a false positive there with score < ``p``.
* An object that the last stage misses was *recoverable* if an earlier stage found it with score > 0.1.

Detections matched to crowd regions are excluded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .chance import partners
from .ground_truth import AREA_RANGES, GroundTruth
from .matching import Matches, match, pair_iou
from .tables import DetectionTable, RowIndex

RECOVERABLE_SCORE = 0.1


@dataclass
class Cases:
    """Last-stage true or false positives and their queries' earlier predictions; ``n`` cases, ``E`` earlier
    stages.

    Attributes:
        row: ``(n,)`` row in the last stage's table.
        earlier: ``(E, n)`` row of the same query in each earlier stage's table, -1 where there is none.
        hit: ``(E, n)`` bool, the earlier stage was better by the definition.
        score_gain: ``(E, n)`` by how much the earlier score was better (higher for a true positive, lower for
            a false one); 0 where ``hit`` is False.
        iou_gain: ``(E, n)`` by how much the earlier IoU was higher; 0 for false positives.
        was_true: ``(E, n)`` bool, the earlier prediction was a true positive (false positives only).
        gt: ``(n,)`` object of a true positive, -1 for a false one.
        iou: ``(n,)`` last-stage IoU with that object, 0 for a false one.
        area: ``(n,)`` square pixels: of the object, or of the detection if it is false.
        label: ``(n,)`` class.
        image: ``(n,)`` image.
    """

    row: np.ndarray
    earlier: np.ndarray
    hit: np.ndarray
    score_gain: np.ndarray
    iou_gain: np.ndarray
    was_true: np.ndarray
    gt: np.ndarray
    iou: np.ndarray
    area: np.ndarray
    label: np.ndarray
    image: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    @property
    def bad(self) -> np.ndarray:
        """``(n,)`` bool: faded, or exacerbated."""
        return self.hit.any(axis=0)

    def marginal(self, epsilon: float) -> np.ndarray:
        """``(n,)`` bool: bad, but no earlier stage was better by ``epsilon`` or more in score or in IoU.

        A false positive that was a true positive before is never marginal.
        """
        large = self.hit & ((self.score_gain >= epsilon) | (self.iou_gain >= epsilon) | self.was_true)
        return self.bad & ~large.any(axis=0)


@dataclass
class Misses:
    """Objects that the last stage did not find; ``n`` objects, ``E`` earlier stages.

    Attributes:
        gt: ``(n,)`` row of the ground truth.
        found: ``(E, n)`` bool, an earlier stage found it with score above 0.1.
    """

    gt: np.ndarray
    found: np.ndarray


@dataclass
class StageErrors:
    """All cases at one IoU threshold.

    Attributes:
        iou: the threshold.
        true: last-stage true positives; ``true.bad`` faded.
        false: last-stage false positives; ``false.bad`` were exacerbated.
        misses: last-stage misses.
        fading_by_chance: ``(draws, n)`` bool over the cases of ``true``: faded under the score changes of another query
            with a similar last score (:mod:`.chance`).
        outcome: ``S`` arrays ``(D,)`` int8 over each stage's table: 1 a true positive, 0 a false one, -1 neither.
    """

    iou: float
    true: Cases
    false: Cases
    misses: Misses
    outcome: list[np.ndarray]
    fading_by_chance: np.ndarray

    def verdict(self, stage: int, row: int) -> str:
        """``true``, ``false`` or ``ignored`` for a row of a stage's table, by that stage's matching."""
        return {1: "true", 0: "false"}.get(int(self.outcome[stage][row]), "ignored")


def find_errors(
    tables: Sequence[DetectionTable],
    gt: GroundTruth,
    *,
    ious: Sequence[float] = (0.5, 0.75),
    max_dets: int = 300,
    exchanges: Sequence[np.random.Generator] = (),
) -> list[StageErrors]:
    """Follow every query of the last stage back through the stages.

    Args:
        tables: ``S`` tables, one row per query.
        gt: the objects.
        ious: thresholds; one result each.
        max_dets: detections per image and class that take part (300 in the released code).
        exchanges: one for each draw of the fading by chance.

    Raises:
        ValueError: rows without query ids.
    """
    if any(len(t) and (t.query < 0).any() for t in tables):
        raise ValueError("these predictions carry no query ids: fading and exacerbation cannot be followed")
    matches = [match(t, gt, ious=ious, max_dets=max_dets) for t in tables]
    earlier = _same_query(tables)
    same = np.zeros(earlier.shape, dtype=bool)
    for s, (table, stage) in enumerate(zip(tables[:-1], matches[:-1], strict=True)):
        if len(table):
            row = earlier[s]
            same[s] = (row >= 0) & stage.kept[row] & (table.label[row] == tables[-1].label)
    gains = np.stack([*_score_gains(tables, earlier), np.zeros(len(tables[-1]))])[:-1]
    chance = [gains[:, partners(tables[-1].score, same, rng)] for rng in exchanges]
    return [_errors_at(t, tables, matches, gt, earlier, same, chance) for t in range(len(matches[-1].ious))]


def _score_gains(tables: Sequence[DetectionTable], earlier: np.ndarray) -> list[np.ndarray]:
    """``E`` arrays ``(D,)``: the score of each last-stage row's query at an earlier stage minus its last one."""
    last = tables[-1].score.astype(np.float64)
    return [
        np.where(row >= 0, table.score[row].astype(np.float64) - last, 0.0) if len(table) else np.zeros(len(last))
        for table, row in zip(tables[:-1], earlier, strict=True)
    ]


def _same_query(tables: Sequence[DetectionTable]) -> np.ndarray:
    """``(E, D)`` for every last-stage row, the row of its query at each earlier stage, -1 where there is none."""
    num_queries = 1 + max((int(t.query.max()) for t in tables if len(t)), default=0)
    keys = [t.image.astype(np.int64) * num_queries + t.query for t in tables]
    rows = [RowIndex(k).find(keys[-1]) for k in keys[:-1]]
    return np.stack(rows) if rows else np.zeros((0, len(tables[-1])), dtype=np.int64)


def _errors_at(
    t: int,
    tables: Sequence[DetectionTable],
    matches: Sequence[Matches],
    gt: GroundTruth,
    earlier: np.ndarray,
    same: np.ndarray,
    chance: Sequence[np.ndarray],
) -> StageErrors:
    found = matches[-1].gt[t, 0]
    counts = np.append(~gt.crowd, False)
    true = np.flatnonzero(counts[found])
    false = np.flatnonzero((found < 0) & matches[-1].kept)
    cases, aligned = _true_cases(true, found[true], tables, gt, earlier[:, true], same[:, true])
    by_chance = [(aligned & (gains[:, true] > 0)).any(axis=0) for gains in chance]
    return StageErrors(
        iou=matches[-1].ious[t],
        true=cases,
        false=_false_cases(t, false, tables, matches, counts, earlier[:, false], same[:, false]),
        misses=_misses(t, tables, matches, gt),
        outcome=[_outcome(m.gt[t, 0], m.kept, counts) for m in matches],
        fading_by_chance=np.asarray(by_chance, dtype=bool).reshape(len(chance), len(true)),
    )


def _outcome(found: np.ndarray, kept: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.where(counts[found], 1, np.where((found < 0) & kept, 0, -1)).astype(np.int8)


def _true_cases(
    rows: np.ndarray,
    objects: np.ndarray,
    tables: Sequence[DetectionTable],
    gt: GroundTruth,
    earlier: np.ndarray,
    same: np.ndarray,
) -> tuple[Cases, np.ndarray]:
    """The cases, and ``(E, n)`` where the earlier box was as good: same class, IoU not below the last one's."""

    def overlap(table: DetectionTable, at: np.ndarray, target: np.ndarray) -> np.ndarray:
        return pair_iou(table.box[at].astype(np.float64), gt.box[target], gt.crowd[target])

    last = tables[-1]
    iou = overlap(last, rows, objects)
    score = last.score[rows].astype(np.float64)
    hit, aligned = np.zeros(same.shape, dtype=bool), np.zeros(same.shape, dtype=bool)
    score_gain, iou_gain = np.zeros(same.shape), np.zeros(same.shape)
    for s, table in enumerate(tables[:-1]):
        at = np.flatnonzero(same[s])
        gained = table.score[earlier[s, at]].astype(np.float64) - score[at]
        moved = overlap(table, earlier[s, at], objects[at]) - iou[at]
        aligned[s, at] = moved >= 0
        good = (moved >= 0) & (gained > 0)
        hit[s, at[good]] = True
        score_gain[s, at[good]] = gained[good]
        iou_gain[s, at[good]] = moved[good]
    cases = Cases(
        row=rows,
        earlier=earlier,
        hit=hit,
        score_gain=score_gain,
        iou_gain=iou_gain,
        was_true=np.zeros(same.shape, dtype=bool),
        gt=objects,
        iou=iou,
        area=gt.area[objects],
        label=last.label[rows],
        image=last.image[rows],
    )
    return cases, aligned


def _false_cases(
    t: int,
    rows: np.ndarray,
    tables: Sequence[DetectionTable],
    matches: Sequence[Matches],
    counts: np.ndarray,
    earlier: np.ndarray,
    same: np.ndarray,
) -> Cases:
    last = tables[-1]
    score = last.score[rows].astype(np.float64)
    was_true = np.zeros(same.shape, dtype=bool)
    score_gain = np.zeros(same.shape)
    hit = np.zeros(same.shape, dtype=bool)
    for s, (table, stage) in enumerate(zip(tables[:-1], matches[:-1], strict=True)):
        at = np.flatnonzero(same[s])
        row = earlier[s, at]
        found = stage.gt[t, 0, row]
        gained = score[at] - table.score[row].astype(np.float64)
        was_true[s, at] = counts[found]
        hit[s, at] = counts[found] | ((found < 0) & (gained > 0))
        score_gain[s, at] = np.where(hit[s, at], np.maximum(gained, 0.0), 0.0)
    return Cases(
        row=rows,
        earlier=earlier,
        hit=hit,
        score_gain=score_gain,
        iou_gain=np.zeros(same.shape),
        was_true=was_true,
        gt=np.full(len(rows), -1),
        iou=np.zeros(len(rows)),
        area=last.area()[rows],
        label=last.label[rows],
        image=last.image[rows],
    )


def _misses(t: int, tables: Sequence[DetectionTable], matches: Sequence[Matches], gt: GroundTruth) -> Misses:
    missed = ~gt.ignored(AREA_RANGES[0])
    last = matches[-1].gt[t, 0]
    missed[last[last >= 0]] = False
    found = np.zeros((len(tables) - 1, len(gt)), dtype=bool)
    for s, (table, stage) in enumerate(zip(tables[:-1], matches[:-1], strict=True)):
        sure = stage.gt[t, 0, table.score.astype(np.float64) > RECOVERABLE_SCORE]
        found[s, sure[sure >= 0]] = True
    rows = np.flatnonzero(missed)
    return Misses(gt=rows, found=found[:, rows])
