"""Pictures of predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances

from ..evaluation.stage_strip import draw_stage_strip
from ..evaluation.tracks import QueryTrack
from ..structures import ImagePredictions
from .sources import opencv


def class_metadata(class_names: Sequence[str]) -> Metadata:
    """What Detectron2's visualisers need to know of a dataset."""
    return Metadata(name="predictions", thing_classes=list(class_names))


def draw_detections(image: np.ndarray, instances: Instances, class_names: Sequence[str]) -> np.ndarray:
    """Draw boxes, names and scores with Detectron2's ``Visualizer``.

    Args:
        image: ``(height, width, 3)`` uint8 RGB.
        instances: in pixels of the image.
        class_names: ``K`` names.

    Returns:
        A picture of the same kind, and size; images under 512 pixels are enlarged, which leaves room for the names.

    Raises:
        UserError: OpenCV, which Detectron2 draws with, is missing.
    """
    opencv("drawing")
    from detectron2.utils.visualizer import Visualizer

    scale = max(1.0, 512 / max(image.shape[:2]))
    visualizer = Visualizer(image, class_metadata(class_names), scale=scale)
    return visualizer.draw_instance_predictions(instances.to("cpu")).get_image()


def draw_stages(
    image: np.ndarray, outputs: ImagePredictions, class_names: Sequence[str], *, queries: int = 3, title: str = ""
):
    """Draw the best queries of the last stage in every stage.

    Args:
        image: ``(height, width, 3)`` uint8 RGB.
        outputs: of the model's ``forward_stages``.
        class_names: ``K`` names.
        queries: how many.
        title: above the strip.

    Returns:
        A matplotlib ``Figure``; write it with ``savefig``.
    """
    return draw_stage_strip(image, best_tracks(outputs, queries), class_names, title=title)


def best_tracks(outputs: ImagePredictions, count: int) -> list[QueryTrack]:
    """The queries of the highest last-stage scores, with each stage's own best class."""
    scores, labels = (x.cpu().numpy() for x in outputs.scores.max(-1))  # (S, Q)
    boxes = outputs.boxes.cpu().numpy()  # (S, Q, 4)
    boxes = np.concatenate((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), axis=-1)
    num_stages = len(scores)
    return [
        QueryTrack(
            image=0,
            query=int(query),
            gt=-1,
            label=labels[:, query],
            score=scores[:, query],
            box=boxes[:, query],
            iou=np.full(num_stages, np.nan),
            verdict=["unjudged"] * num_stages,
            best_stage=-1,
            severity=0.0,
        )
        for query in np.argsort(-scores[-1], kind="stable")[:count]
    ]
