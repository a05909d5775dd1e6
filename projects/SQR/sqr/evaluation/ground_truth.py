"""Ground truth of a COCO file as flat columns, in the order in which pycocotools walks it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.prepared import usable_annotations

AREA_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
AREA_NAMES = ("all", "small", "medium", "large")


@dataclass
class GroundTruth:
    """Objects of ``N`` images; ``T`` rows ordered by image, then as in the file.

    Attributes:
        image_ids: ``(N,)`` ascending.
        category_ids: ``(K,)`` ascending.
        class_names: ``K`` names.
        file_names: ``N`` image file names as in the annotation file.
        image: ``(T,)`` int32 position in ``image_ids``.
        label: ``(T,)`` int32 position in ``category_ids``.
        box: ``(T, 4)`` float64 absolute ``(x, y, width, height)``.
        area: ``(T,)`` float64 the annotation's area, by which COCO divides objects into small, medium and
            large.
        crowd: ``(T,)`` bool; detections on crowd regions are ignored.
        id: ``(T,)`` annotation ids.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    class_names: list[str]
    file_names: list[str]
    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    id: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def ignored(self, area_range: tuple[float, float] = AREA_RANGES[0]) -> np.ndarray:
        """``(T,)`` bool: crowds, and objects outside the area range (bounds included, as in pycocotools)."""
        return self.crowd | (self.area < area_range[0]) | (self.area > area_range[1])


def load_coco(annotations: str | Mapping, *, checked: bool = False):
    """Load a ``pycocotools.coco.COCO`` from a path or an already loaded dict, without its printed output.

    Args:
        annotations: a file in COCO's format, read as in training; a dict is used unchanged.
        checked: the file belongs to a registered dataset and was checked before.

    Raises:
        FileNotFoundError, ValueError: as :func:`sqr.data.prepared.usable_annotations`.
    """
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        if isinstance(annotations, Mapping):
            coco = COCO()
            coco.dataset = dict(annotations)
            coco.createIndex()
            return coco
        return COCO(str(annotations) if checked else usable_annotations(str(annotations)))


def from_coco(coco, image_ids: Sequence | None = None) -> GroundTruth:
    """Read the objects of a COCO dataset.

    Args:
        coco: a ``pycocotools.coco.COCO``, a path to an annotation file, or its dict.
        image_ids: only these images; all images of the file when None.

    Raises:
        ValueError: an image id that the file does not know.
    """
    if not hasattr(coco, "imgToAnns"):
        coco = load_coco(coco)
    ids = np.unique(np.asarray(coco.getImgIds() if image_ids is None else list(image_ids)))
    unknown = [i for i in ids.tolist() if i not in coco.imgs]
    if unknown:
        raise ValueError(f"image ids {unknown[:5]} are not in the annotation file ({len(coco.imgs)} images)")
    category_ids = np.asarray(sorted(coco.getCatIds()))
    position = {c: k for k, c in enumerate(category_ids.tolist())}
    rows = [
        (n, a) for n, i in enumerate(ids.tolist()) for a in coco.imgToAnns.get(i, []) if a["category_id"] in position
    ]
    return GroundTruth(
        image_ids=ids,
        category_ids=category_ids,
        class_names=[coco.cats[c].get("name", str(c)) for c in category_ids.tolist()],
        file_names=[coco.imgs[i].get("file_name", "") for i in ids.tolist()],
        image=np.asarray([n for n, _ in rows], dtype=np.int32),
        label=np.asarray([position[a["category_id"]] for _, a in rows], dtype=np.int32),
        box=np.asarray([a["bbox"] for _, a in rows], dtype=np.float64).reshape(-1, 4),
        area=np.asarray([a.get("area", a["bbox"][2] * a["bbox"][3]) for _, a in rows], dtype=np.float64),
        crowd=np.asarray([bool(a.get("iscrowd", 0)) for _, a in rows], dtype=bool),
        id=np.asarray([a["id"] for _, a in rows]),
    )
