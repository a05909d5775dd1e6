"""COCO's box AP and AR by vectorised matching: the numbers of pycocotools without its Python loops."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from pycocotools.cocoeval import COCOeval

from ..files import write_json
from .average_precision import COCO_IOUS, class_curves, precision_at_recalls, recalls
from .ground_truth import AREA_RANGES, from_coco
from .matching import match
from .tables import DetectionTable

IMPLEMENTATIONS = ("vectorised", "pycocotools")


class BoxEvaluator(COCOEvaluator):
    """Detectron2's ``COCOEvaluator`` for boxes, with a choice of implementation.

    Args:
        dataset_name: a registered dataset.
        implementation: ``vectorised`` (:func:`evaluate_boxes`) or ``pycocotools``; the numbers are the same.
        output_dir: folder of ``coco_instances_results.json``; nothing is written when None.
        distributed: gather the predictions of all processes.
        max_dets_per_image: best detections per image and class that are evaluated; None is COCO's 100.

    Raises:
        ValueError: an unknown implementation.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        implementation: str = "vectorised",
        output_dir: str | None = None,
        distributed: bool = True,
        max_dets_per_image: int | None = None,
    ):
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"implementation={implementation!r}: one of {', '.join(IMPLEMENTATIONS)}")
        super().__init__(
            dataset_name, ("bbox",), distributed, output_dir, max_dets_per_image=max_dets_per_image, use_fast_impl=False
        )
        self._vectorised = implementation == "vectorised"

    def _eval_predictions(self, predictions: Sequence[Mapping], img_ids: Sequence | None = None) -> None:
        results = list(itertools.chain.from_iterable(one["instances"] for one in predictions))
        if not self._vectorised or not self._do_evaluation or not results:
            super()._eval_predictions(predictions, img_ids)
            return
        mapping = getattr(self._metadata, "thing_dataset_id_to_contiguous_id", None)
        if mapping is not None:
            category_ids = {label: category for category, label in mapping.items()}
            for result in results:
                result["category_id"] = category_ids[result["category_id"]]
        if self._output_dir:
            write_json(Path(self._output_dir) / "coco_instances_results.json", results)
        evaluated = evaluate_boxes(self._coco_api, results, img_ids, max_dets=self._max_dets_per_image[-1])
        names = self._metadata.get("thing_classes")
        self._results["bbox"] = self._derive_coco_results(evaluated, "bbox", class_names=names)


def evaluate_boxes(
    coco, results: Sequence[Mapping], image_ids: Sequence | None = None, *, max_dets: int = 100
) -> COCOeval:
    """Evaluate boxes against a COCO dataset, as ``COCOeval.evaluate``, ``accumulate`` and ``summarize`` do.

    Args:
        coco: a ``pycocotools.coco.COCO``.
        results: in COCO's format: ``image_id``, ``category_id``, ``bbox`` ``(x, y, width, height)``, ``score``.
        image_ids: only these images; all of the dataset when None.
        max_dets: best detections per image and class that are evaluated (COCO: 100).

    Returns:
        A ``COCOeval`` whose ``stats``, ``eval["precision"]`` and ``eval["recall"]`` are those of pycocotools.

    Raises:
        ValueError: an image id that the dataset does not have.
    """
    gt = from_coco(coco, image_ids)
    evaluated = (COCOeval if max_dets == 100 else COCOevalMaxDets)(coco, None, "bbox")
    evaluated.params.maxDets = [*evaluated.params.maxDets[:-1], max_dets]
    evaluated.params.imgIds = gt.image_ids.tolist()
    detections = _table(results, gt.image_ids, gt.category_ids)
    matches = match(detections, gt, ious=COCO_IOUS, area_ranges=AREA_RANGES, max_dets=max_dets)
    curves = [[curve.within(n) for curve in class_curves(detections, matches, gt)] for n in evaluated.params.maxDets]
    evaluated.eval = {
        "precision": np.stack([precision_at_recalls(c) for c in curves], axis=-1),
        "recall": np.stack([recalls(c) for c in curves], axis=-1),
    }
    evaluated.summarize()
    return evaluated


def _table(results: Sequence[Mapping], image_ids: np.ndarray, category_ids: np.ndarray) -> DetectionTable:
    """Results as columns, ordered by image and then as given; other categories are dropped, as in pycocotools."""
    images = np.asarray([one["image_id"] for one in results])
    categories = np.asarray([one["category_id"] for one in results])
    known = np.isin(categories, category_ids) & np.isin(images, image_ids)
    image = np.searchsorted(image_ids, images[known])
    order = np.argsort(image, kind="stable")
    rows = np.flatnonzero(known)[order]
    return DetectionTable(
        image=image[order].astype(np.int32),
        query=np.full(len(rows), -1, dtype=np.int32),
        label=np.searchsorted(category_ids, categories[rows]).astype(np.int32),
        score=np.asarray([one["score"] for one in results], dtype=np.float64)[rows],
        box=np.asarray([one["bbox"] for one in results], dtype=np.float64).reshape(-1, 4)[rows],
    )
