"""Predictions of every stage as flat columns, ready to be joined on query ids.

The analysis reads two tables per stage:

* ``queries``: one row per query, with its best class only. The fading and exacerbation rates are defined on
  these.
* ``detections``: the output of the detector if it ended at this stage (its top-k of (query, class) pairs).
  Average precision and the oracle are defined on these.

Rows are ordered by image; rows of one image keep the order in which the detector produced them, because
COCO's matching breaks ties of equal scores by that order. Boxes are absolute ``(x, y, width, height)`` in
pixels of the original image, as in COCO files. Model outputs stay in float32, files of results
in float64, so that numbers equal those of pycocotools to the last bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

COLUMNS = ("image", "query", "label", "score", "box")


@dataclass
class DetectionTable:
    """Detections of one stage over many images; ``D`` rows.

    Attributes:
        image: ``(D,)`` int32, position in ``StagePredictions.image_ids``, ascending.
        query: ``(D,)`` int32, the query that predicted the row; -1 where unknown.
        label: ``(D,)`` int32, position in ``StagePredictions.category_ids``.
        score: ``(D,)`` class probability.
        box: ``(D, 4)`` absolute ``(x, y, width, height)``.
    """

    image: np.ndarray
    query: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: np.ndarray) -> DetectionTable:
        """The rows selected by an index or boolean array, as a new table."""
        return DetectionTable(**{name: getattr(self, name)[rows] for name in COLUMNS})

    def area(self) -> np.ndarray:
        """``(D,)`` float64 box areas in square pixels, multiplied in double precision as pycocotools does."""
        box = self.box.astype(np.float64)
        return box[:, 2] * box[:, 3]

    @staticmethod
    def empty(dtype: type = np.float32) -> DetectionTable:
        ints = np.zeros(0, dtype=np.int32)
        return DetectionTable(ints, ints, ints, np.zeros(0, dtype), np.zeros((0, 4), dtype))

    @staticmethod
    def cat(tables: Iterable[DetectionTable]) -> DetectionTable:
        """Concatenate tables; the caller must keep images in ascending order."""
        tables = list(tables)
        if not tables:
            return DetectionTable.empty()
        return DetectionTable(**{n: np.concatenate([getattr(t, n) for t in tables]) for n in COLUMNS})


@dataclass
class StagePredictions:
    """Predictions of ``S`` stages over ``N`` images.

    Attributes:
        image_ids: ``(N,)`` dataset image ids, strictly ascending (COCO's own evaluation order).
        image_sizes: ``(N, 2)`` int32 ``(height, width)`` of the original images.
        category_ids: ``(K,)`` dataset category ids, ascending; labels are positions in it.
        queries: ``S`` tables, one row per query with its best class; empty if the source has no query ids.
        detections: ``S`` tables, the detector's own output at each stage.
        source: free text describing where the predictions come from; shown in reports.
        details: a longer description: checkpoint, date, command.
    """

    image_ids: np.ndarray
    image_sizes: np.ndarray
    category_ids: np.ndarray
    queries: list[DetectionTable]
    detections: list[DetectionTable]
    source: str = ""
    details: str = ""

    @property
    def num_stages(self) -> int:
        return len(self.detections)

    @property
    def has_query_ids(self) -> bool:
        """Whether predictions can be followed through the stages."""
        return all(len(t) == 0 or bool((t.query >= 0).all()) for t in (*self.queries, *self.detections))


@dataclass
class ImageTables:
    """All stages' predictions for one image, before they are sorted into tables.

    Attributes:
        image_id: the dataset's id.
        image_size: ``(height, width)``.
        queries: ``S`` tables whose ``image`` column is not yet meaningful.
        detections: the same.
    """

    image_id: int
    image_size: tuple[int, int]
    queries: list[DetectionTable]
    detections: list[DetectionTable]


def assemble(
    records: Iterable[ImageTables], category_ids: Sequence[int], source: str = "", details: str = ""
) -> StagePredictions:
    """Sort image records into tables.

    Args:
        records: one record per image, in any order (distributed evaluation gathers them rank by rank).
        category_ids: dataset category ids in the order of the labels; must ascend.
        source, details: see :class:`StagePredictions`.

    Raises:
        ValueError: no records, a duplicate image, or records with different numbers of stages.
    """
    records = sorted(records, key=lambda r: r.image_id)
    if not records:
        raise ValueError("there are no predictions to analyse: the evaluator has processed no image")
    ids = [r.image_id for r in records]
    for first, second in itertools.pairwise(ids):
        if first == second:
            raise ValueError(f"image {first} was predicted twice; every image must be evaluated exactly once")
    stages = {len(r.detections) for r in records}
    if len(stages) > 1:
        raise ValueError(f"images have different numbers of stages: {sorted(stages)}")

    def gather(kind: str, stage: int) -> DetectionTable:
        tables = [getattr(r, kind)[stage] for r in records]
        out = DetectionTable.cat(tables)
        out.image = np.repeat(np.arange(len(tables), dtype=np.int32), [len(t) for t in tables])
        return out

    num_stages = stages.pop()
    return StagePredictions(
        image_ids=np.asarray(ids),
        image_sizes=np.asarray([r.image_size for r in records], dtype=np.int32).reshape(-1, 2),
        category_ids=np.asarray(category_ids),
        queries=[gather("queries", s) for s in range(num_stages)],
        detections=[gather("detections", s) for s in range(num_stages)],
        source=source,
        details=details,
    )


class RowIndex:
    """Finds rows by an integer key: the join of the analysis.

    Args:
        keys: ``(D,)`` int64, unique.

    Raises:
        ValueError: a key occurs twice, that is, one query predicts the same class twice in one image.
    """

    def __init__(self, keys: np.ndarray):
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]
        if (self._sorted[1:] == self._sorted[:-1]).any():
            raise ValueError("a query predicts the same thing twice in one image and stage: query ids must be unique")

    def find(self, keys: np.ndarray) -> np.ndarray:
        """``(n,)`` row of every key, -1 where there is none."""
        if not len(self._sorted):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.where(self._sorted[at] == keys, self._order[at], -1)
