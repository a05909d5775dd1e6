"""Predictions on validation images as stage strips, for TensorBoard."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import inference_context
from detectron2.structures import BoxMode
from omegaconf import DictConfig
from torch import nn

from ..structures import ImagePredictions
from .matching import pair_iou
from .stage_strip import draw_stage_strip
from .tracks import QueryTrack

_IOU = 0.5  # with an object of the same class: drawn as a true positive


class ValidationPictures:
    """Draws the first validation images with objects and the best queries of each through the stages.

    Args:
        cfg: the whole config.
        count: images.
        queries: queries to draw per image.
    """

    def __init__(self, cfg: DictConfig, *, count: int, queries: int = 4):
        self._loader, self._evaluator = cfg.dataloader.test, cfg.dataloader.get("evaluator")
        self._count, self._queries = count, queries
        self._samples: list[dict] | None = None

    def draw(self, model: nn.Module) -> dict[str, np.ndarray]:
        """``(3, height, width)`` uint8 pictures by name; none for a model without stages or data without files."""
        if not self._count or not hasattr(model, "forward_stages"):
            return {}
        if self._samples is None:
            self._samples, self._classes = self._choose()
        mapper, pictures = instantiate(self._loader.mapper), {}
        for sample in self._samples:
            with inference_context(model), torch.no_grad():
                (outputs,) = model.forward_stages([mapper(copy.deepcopy(sample))])
            pictures[f"validation/{sample['image_id']}"] = self._draw_one(sample, outputs)
        return pictures

    def _choose(self) -> tuple[list[dict], Sequence[str] | None]:
        dataset = instantiate(self._loader.dataset)
        usable = (d for d in dataset if d.get("annotations") and "file_name" in d)
        name = (self._evaluator or {}).get("dataset_name")
        name = name if isinstance(name, str) or name is None else instantiate(name)
        return list(islice(usable, self._count)), MetadataCatalog.get(name).get("thing_classes") if name else None

    def _draw_one(self, sample: Mapping, outputs: ImagePredictions) -> np.ndarray:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYWH_ABS) for a in sample["annotations"]]
        boxes, labels = np.asarray(boxes, dtype=float), np.asarray([a["category_id"] for a in sample["annotations"]])
        classes = self._classes or [str(k) for k in range(outputs.scores.shape[-1])]
        figure = draw_stage_strip(
            read_image(sample["file_name"], "RGB"),
            best_tracks(outputs, boxes, labels, count=self._queries),
            classes,
            objects=boxes,
            title=str(sample["file_name"]).rpartition("/")[2],
        )
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].transpose(2, 0, 1).copy()


def best_tracks(outputs: ImagePredictions, boxes: np.ndarray, labels: np.ndarray, *, count: int) -> list[QueryTrack]:
    """The queries with the highest last-stage scores, without overlapping ones of the same class.

    Args:
        outputs: of one image.
        boxes: ``(T, 4)`` objects, absolute ``(x, y, width, height)``.
        labels: ``(T,)`` their classes.
        count: maximum number.

    Returns:
        Tracks, best first; verdicts are only "true" (IoU of at least 0.5 with an object of the class) and "false".
    """
    score, label = (x.float().cpu().numpy() for x in outputs.scores.max(dim=-1))  # (S, Q)
    label = label.astype(np.int64)
    box = outputs.boxes.float().cpu().numpy().copy()
    box[..., 2:] -= box[..., :2]
    chosen: list[int] = []
    for query in np.argsort(-score[-1], kind="stable").tolist():
        rivals = [q for q in chosen if label[-1, q] == label[-1, query]]
        if _best_iou(box[-1, query], box[-1, rivals]) < _IOU:
            chosen.append(query)
        if len(chosen) == count:
            break
    tracks = []
    for query in chosen:
        iou = np.asarray(
            [_best_iou(b, boxes[labels == k]) for b, k in zip(box[:, query], label[:, query], strict=True)]
        )
        tracks.append(
            QueryTrack(
                image=0,
                query=query,
                gt=-1,
                label=label[:, query],
                score=score[:, query],
                box=box[:, query],
                iou=iou,
                verdict=["true" if x >= _IOU else "false" for x in iou],
                best_stage=-1,
                severity=0.0,
            )
        )
    return tracks


def _best_iou(box: np.ndarray, others: np.ndarray) -> float:
    if not len(others):
        return 0.0
    return float(pair_iou(np.repeat(box[None], len(others), axis=0), others, np.zeros(len(others), bool)).max())
