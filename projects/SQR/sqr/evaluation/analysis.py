"""The analysis of stored predictions: AP by stage, fading, exacerbation, recoverable misses,
oracle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from . import ground_truth as ground_truth_module
from .average_precision import COCO_IOUS, ClassCurve, class_curves, coco_metrics, precision_at_recalls
from .chance import DRAWS, Chance, generators
from .ground_truth import AREA_NAMES, AREA_RANGES, GroundTruth
from .matching import match
from .operating_points import IOU, OperatingCurve, confusion_matrix, operating_curve
from .oracle import oracle_curves, oracle_metrics, oracle_precision, oracle_scores
from .stage_errors import Cases, StageErrors, find_errors
from .tables import StagePredictions

logger = logging.getLogger(__name__)

RATE_IOUS = (0.5, 0.75)
EPSILONS = (0.01, 0.05, 0.1)


@dataclass
class StageAnalysis:
    """All numbers about one set of predictions.

    Attributes:
        predictions: the predictions, with images in the order of ``gt``.
        gt: the objects.
        stages: ``S`` dicts of AP in percent, as :func:`~sqr.evaluation.average_precision.coco_metrics` gives
            them.
        oracle: AP in percent of the best stage of each detection; None without query ids.
        errors: fading and exacerbation, one entry per IoU threshold; empty without query ids.
        epsilons: margins below which a case is marginal.
        curves: ``S`` lists of class curves over all areas, kept for the bootstrap.
        oracle_curves: the same for the oracle, one list per threshold; None without query ids.
        chance: oracle AP by chance, see :mod:`.chance`; None without query ids.
        chance_curves: class curves of each draw of it, kept for the bootstrap.
        complete: False if some images of the annotation file were left out.
    """

    predictions: StagePredictions
    gt: GroundTruth
    stages: list[dict]
    oracle: dict | None
    errors: list[StageErrors]
    epsilons: tuple[float, ...]
    curves: list[list[ClassCurve]] = field(repr=False)
    oracle_curves: list[list[ClassCurve]] | None = field(repr=False)
    chance: Chance | None = None
    chance_curves: list[list[list[ClassCurve]]] = field(repr=False, default_factory=list)
    complete: bool = True

    def summary(self) -> dict:
        """All numbers as plain Python values, ready for JSON. Rates and AP are in percent; NaN becomes None."""
        return _plain(
            {
                "format": "sqr-stage-analysis",
                "version": 1,
                "source": self.predictions.source,
                "details": self.predictions.details,
                "images": len(self.gt.image_ids),
                "objects": int((~self.gt.crowd).sum()),
                "complete": self.complete,
                "classes": list(self.gt.class_names),
                "stages": self.stages,
                "oracle": self._oracle_summary(),
                "rates": [summarize_errors(e, self.gt, self.epsilons) for e in self.errors],
                "operating_points": {
                    "iou": IOU,
                    "by_class": [curve.best() for curve in self.operating_curves()],
                    "confusion": self.confusion().tolist(),
                },
            }
        )

    def operating_curves(self) -> list[OperatingCurve]:
        """Precision, recall and F1 of the last stage by score threshold, of every class."""
        return [operating_curve(curve) for curve in self.curves[-1]]

    def confusion(self) -> np.ndarray:
        """The last stage's confusion matrix, every class at its threshold of the highest F1.

        If the query of each detection is known, a query counts once, with its best class.
        """
        predictions = self.predictions
        table = predictions.queries[-1] if len(predictions.queries[-1]) else predictions.detections[-1]
        return confusion_matrix(table, self.gt, [curve.best()["threshold"] for curve in self.operating_curves()])

    def _oracle_summary(self) -> dict | None:
        if self.oracle is None or self.chance is None:
            return self.oracle
        gain = self.oracle["AP"] - self.stages[-1]["AP"]
        by_chance = self.chance.mean - self.stages[-1]["AP"]
        shares = {"gain": gain, "gain_by_chance": by_chance}
        return {**self.oracle, **shares, "chance": self.chance.summary(self.oracle["AP"])}


def analyze(
    predictions: StagePredictions,
    coco_gt,
    *,
    rate_ious: Sequence[float] = RATE_IOUS,
    epsilons: Sequence[float] = EPSILONS,
    max_dets: int = 100,
    rate_max_dets: int = 300,
    chance_draws: int = DRAWS,
    predicted_images_only: bool = False,
    progress: Callable[[str], None] | None = None,
) -> StageAnalysis:
    """Compute AP of every stage, the rates and the oracle.

    Args:
        predictions: see :class:`StagePredictions`.
        coco_gt: a ``pycocotools.coco.COCO``, a path to an annotation file, or its dict.
        rate_ious: IoU thresholds of the fading and exacerbation rates.
        epsilons: a case is marginal when no earlier stage was better by this much, in score or in IoU.
        max_dets: detections per image and class used for AP (COCO: 100).
        rate_max_dets: the same for the rates (released analysis code: 300).
        chance_draws: random exchanges for the chance level of the oracle and of fading; 0 omits it.
        predicted_images_only: evaluate on the images that were predicted, for an interrupted run; by default
            images without predictions count as missed, as in the ordinary evaluation.
        progress: called with a line of text before each step.

    Raises:
        ValueError: predictions for images or categories that the annotation file does not have.
    """
    say = progress or logger.debug
    coco = coco_gt if hasattr(coco_gt, "imgToAnns") else ground_truth_module.load_coco(coco_gt)
    gt = ground_truth_module.from_coco(coco, predictions.image_ids if predicted_images_only else None)
    predictions = align(predictions, gt)
    stages, curves, matches = [], [], []
    for s, table in enumerate(predictions.detections, start=1):
        say(f"stage {s} of {predictions.num_stages}: average precision")
        found = match(table, gt, ious=COCO_IOUS, area_ranges=AREA_RANGES, max_dets=max_dets)
        stage_curves = class_curves(table, found, gt)
        stages.append(coco_metrics(precision_at_recalls(stage_curves), gt.class_names))
        curves.append([_over_all_areas(c) for c in stage_curves])
        found.gt = found.gt[:, :1].copy()
        matches.append(found)
    oracle, best_curves, errors, chance, chance_curves = None, None, [], None, []
    if predictions.has_query_ids:
        say("oracle")
        scores = oracle_scores(predictions.detections, matches, gt)
        best_curves = oracle_curves(predictions.detections[-1], matches[-1], gt, scores)
        oracle = oracle_metrics(oracle_precision(best_curves))
        for n, rng in enumerate(generators(chance_draws), start=1):
            say(f"oracle by chance, draw {n} of {chance_draws}")
            scores = oracle_scores(predictions.detections, matches, gt, exchange=rng)
            chance_curves.append(oracle_curves(predictions.detections[-1], matches[-1], gt, scores))
        if chance_curves:
            chance = Chance(tuple(oracle_metrics(oracle_precision(curves))["AP"] for curves in chance_curves))
        say("fading and exacerbation")
        errors = find_errors(
            predictions.queries, gt, ious=rate_ious, max_dets=rate_max_dets, exchanges=generators(chance_draws)
        )
    return StageAnalysis(
        predictions=predictions,
        gt=gt,
        stages=stages,
        oracle=oracle,
        errors=errors,
        epsilons=tuple(float(e) for e in epsilons),
        curves=curves,
        oracle_curves=best_curves,
        chance=chance,
        chance_curves=chance_curves,
        complete=len(gt.image_ids) == len(coco.imgs),
    )


def align(predictions: StagePredictions, gt: GroundTruth) -> StagePredictions:
    """Renumber images of the predictions by their position in the ground truth, keeping everything else.

    Raises:
        ValueError: see :func:`analyze`.
    """
    if predictions.category_ids.tolist() != gt.category_ids.tolist():
        raise ValueError(
            f"predictions are for {len(predictions.category_ids)} categories {predictions.category_ids.tolist()[:8]}, "
            f"the annotation file has {len(gt.category_ids)}: {gt.category_ids.tolist()[:8]}; "
            "evaluate on the dataset that the predictions were made for"
        )
    position = np.searchsorted(gt.image_ids, predictions.image_ids)
    position = np.minimum(position, max(len(gt.image_ids) - 1, 0))
    known = gt.image_ids[position] == predictions.image_ids
    if not known.all():
        strangers = predictions.image_ids[~known].tolist()
        raise ValueError(f"predictions for images {strangers[:5]}, which the annotation file does not have")
    sizes = np.zeros((len(gt.image_ids), 2), dtype=np.int32)
    sizes[position] = predictions.image_sizes

    def move(table):
        out = table.take(slice(None))
        out.image = position[table.image].astype(np.int32)
        return out

    return StagePredictions(
        image_ids=gt.image_ids,
        image_sizes=sizes,
        category_ids=predictions.category_ids,
        queries=[move(t) for t in predictions.queries],
        detections=[move(t) for t in predictions.detections],
        source=predictions.source,
        details=predictions.details,
    )


def summarize_errors(errors: StageErrors, gt: GroundTruth, epsilons: Sequence[float]) -> dict:
    """Counts and rates at one IoU threshold: overall, by class, by area and by earlier stage."""
    misses = errors.misses
    recoverable = misses.found.any(axis=0) if len(misses.found) else np.zeros(len(misses.gt), dtype=bool)
    return {
        "iou": errors.iou,
        "fading": {**_summarize_cases(errors.true, gt, epsilons), **_fading_chance(errors)},
        "exacerbation": _summarize_cases(errors.false, gt, epsilons),
        "recoverable_misses": {
            "total": len(misses.gt),
            "bad": int(recoverable.sum()),
            "rate": _rate(recoverable.sum(), len(misses.gt)),
            "by_stage": misses.found.sum(axis=1).tolist(),
        },
        "best_stage": best_stage_histogram(errors.true).tolist(),
    }


def _fading_chance(errors: StageErrors) -> dict:
    if not errors.fading_by_chance.size:
        return {}
    chance = Chance(tuple(100.0 * draw.mean() for draw in errors.fading_by_chance))
    return {"chance": chance.summary(_rate(errors.true.bad.sum(), len(errors.true)))}


def best_stage_histogram(cases: Cases) -> np.ndarray:
    """``(S,)`` at which stage the queries of last-stage true positives were best; entry ``S - 1`` is "the
    last".

    The best stage is the one with the highest score among the last one and those that were better by the definition
    of fading; of equal scores, the later one.
    """
    gain = np.concatenate([np.where(cases.hit, cases.score_gain, -1.0), np.zeros((1, len(cases)))])
    best = len(gain) - 1 - np.argmax(gain[::-1], axis=0)
    return np.bincount(best, minlength=len(gain))


def _summarize_cases(cases: Cases, gt: GroundTruth, epsilons: Sequence[float]) -> dict:
    bad = cases.bad
    area_bin = np.digitize(cases.area, [AREA_RANGES[1][1], AREA_RANGES[2][1]])
    names = np.asarray(AREA_NAMES[1:])
    classes = len(gt.category_ids)
    total, worse = (np.bincount(x, minlength=classes) for x in (cases.label, cases.label[bad]))
    return {
        "total": len(cases),
        "bad": int(bad.sum()),
        "rate": _rate(bad.sum(), len(cases)),
        "marginal": {f"{e:g}": _rate(cases.marginal(e).sum(), bad.sum()) for e in epsilons},
        "by_stage": cases.hit.sum(axis=1).tolist(),
        "was_true_by_stage": cases.was_true.sum(axis=1).tolist(),
        "was_true": int(cases.was_true.any(axis=0).sum()),
        "by_area": {
            str(name): {"total": int((area_bin == a).sum()), "bad": int((bad & (area_bin == a)).sum())}
            for a, name in enumerate(names)
        },
        "by_class": [{"total": int(n), "bad": int(b), "rate": _rate(b, n)} for n, b in zip(total, worse, strict=True)],
    }


def _over_all_areas(curve: ClassCurve) -> ClassCurve:
    return replace(curve, true=curve.true[:, :1].copy(), false=curve.false[:, :1].copy(), objects=curve.objects[:1])


def _rate(part, whole) -> float:
    return 100.0 * float(part) / float(whole) if whole else float("nan")


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
