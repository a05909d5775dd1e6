"""Predictions on disk: compact shards, and COCO result files of any toolbox.

A directory of predictions contains ``meta.json`` and shards ``part-RANK-NUMBER.npz``, written during inference,
so that an interrupted evaluation keeps its results. A shard contains the columns of both tables of every stage for
its images: 22 bytes per query and 24 per detection and stage before compression.

COCO result files are given one per stage, in the order of the stages: the usual ``image_id``, ``category_id``,
``bbox`` and ``score``, and, for statistics that follow queries through the stages, a ``query_id`` that is equal
in every file. Whether a file has one row per query or per (query, class) pair, a query's best class is its row with the
highest score.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import one_line
from ..files import read_json, write_atomically, write_json
from .tables import DetectionTable, ImageTables, StagePredictions, assemble

FORMAT = "sqr-stage-predictions"
VERSION = 1
MAX_SHARD_BYTES = 2**30
"""Of a decompressed shard; a shard of 1,000 images, 6 stages and 900 queries has a quarter of it."""
_SMALL = {"query": np.int16, "label": np.int16}


def write_meta(directory: Path, meta: Mapping) -> None:
    """Write ``meta.json`` of a directory of predictions; ``meta`` needs ``category_ids``, the rest is informative."""
    write_json(Path(directory) / "meta.json", {"format": FORMAT, "version": VERSION, **meta})


def write_shard(path: Path, records: Sequence[ImageTables]) -> None:
    """Write image records to one ``.npz`` file, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    num_stages = len(records[0].detections)
    columns = {
        "image_id": np.asarray([r.image_id for r in records]),
        "image_size": np.asarray([r.image_size for r in records], dtype=np.int32),
        "num_stages": np.asarray(num_stages),
    }
    for kind in ("queries", "detections"):
        for s in range(num_stages):
            tables = [getattr(r, kind)[s] for r in records]
            whole = DetectionTable.cat(tables)
            columns[f"{kind}.{s}.count"] = np.asarray([len(t) for t in tables], dtype=np.int32)
            for name in ("query", "label", "score", "box"):
                values = getattr(whole, name)
                small = _SMALL.get(name)
                if small is not None and len(values) and values.max() <= np.iinfo(small).max:
                    values = values.astype(small)
                columns[f"{kind}.{s}.{name}"] = values
    write_atomically(path, lambda file: np.savez_compressed(file, **columns))


def read_shard(path: Path) -> list[ImageTables]:
    """The records of one shard.

    Raises:
        ValueError: the file is not a shard, is damaged or larger than ``MAX_SHARD_BYTES`` when decompressed, or
        contains
            numbers that are not finite.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_SHARD_BYTES:
            raise ValueError(f"it has {size} bytes once decompressed, more than {MAX_SHARD_BYTES}")
        with np.load(path, allow_pickle=False) as file:
            return _records({name: file[name] for name in file.files})
    except Exception as error:  # a broken archive can raise anything
        raise ValueError(f"{path} is not a readable shard of predictions: {one_line(error)[:200]}") from error


def _records(content: Mapping[str, np.ndarray]) -> list[ImageTables]:
    num_stages = content["num_stages"].item()
    num_images = len(content["image_id"])
    if not isinstance(num_stages, int) or not 1 <= num_stages <= 1000:
        raise ValueError(f"num_stages={num_stages}")
    sizes = content["image_size"]
    if content["image_id"].dtype.kind not in "iu" or sizes.dtype.kind not in "iu" or sizes.shape != (num_images, 2):
        raise ValueError("image_id and image_size are not those of images")

    def split(kind: str, stage: int) -> list[DetectionTable]:
        count = content[f"{kind}.{stage}.count"]
        columns = {name: content[f"{kind}.{stage}.{name}"] for name in ("query", "label", "score", "box")}
        _check_columns(columns, count, num_images, f"{kind}.{stage}")
        ends = np.cumsum(count)
        return [
            DetectionTable(
                image=np.zeros(n, dtype=np.int32),
                query=columns["query"][end - n : end].astype(np.int32),
                label=columns["label"][end - n : end].astype(np.int32),
                score=columns["score"][end - n : end],
                box=columns["box"][end - n : end],
            )
            for n, end in zip(count.tolist(), ends.tolist(), strict=True)
        ]

    queries = [split("queries", s) for s in range(num_stages)]
    detections = [split("detections", s) for s in range(num_stages)]
    return [
        ImageTables(
            image_id=image_id,
            image_size=tuple(size),
            queries=[stage[n] for stage in queries],
            detections=[stage[n] for stage in detections],
        )
        for n, (image_id, size) in enumerate(
            zip(content["image_id"].tolist(), content["image_size"].tolist(), strict=True)
        )
    ]


def _check_columns(columns: Mapping[str, np.ndarray], count: np.ndarray, num_images: int, name: str) -> None:
    """Reject columns that do not form a table of ``num_images`` images."""
    if count.dtype.kind not in "iu" or count.shape != (num_images,) or (count < 0).any():
        raise ValueError(f"{name}.count does not count the rows of {num_images} images")
    rows = int(count.sum())
    for column, values in columns.items():
        whole = column in ("query", "label")
        if values.shape != ((rows, 4) if column == "box" else (rows,)) or values.dtype.kind not in (
            "iu" if whole else "f"
        ):
            raise ValueError(f"{name}.{column} is {values.dtype} {values.shape}, not the values of {rows} rows")
        if not np.isfinite(values).all():
            raise ValueError(f"{name}.{column} is not finite; the model that predicted it had diverged")
        if column == "label" and rows and values.min() < 0:
            raise ValueError(f"{name}.label is negative")


def load_predictions(directory: str | Path) -> tuple[StagePredictions, dict]:
    """Read a directory of shards.

    Returns:
        The predictions and the content of ``meta.json``.

    Raises:
        FileNotFoundError: no ``meta.json`` or no shard.
        ValueError: not a directory of predictions, or an image in two shards.
    """
    directory = Path(directory)
    if not (directory / "meta.json").exists():
        raise FileNotFoundError(f"{directory} holds no predictions: there is no meta.json in it")
    meta = _read_meta(directory / "meta.json")
    shards = sorted(directory.glob("part-*.npz"))
    if not shards:
        raise FileNotFoundError(f"{directory} holds no predictions: there is no part-*.npz in it")
    records = [r for shard in shards for r in read_shard(shard)]
    highest = max((int(t.label.max()) for r in records for t in (*r.queries, *r.detections) if len(t)), default=-1)
    if highest >= len(meta["category_ids"]):
        raise ValueError(
            f"{directory} predicts class {highest}, meta.json lists {len(meta['category_ids'])} categories"
        )
    source, details = meta.get("source") or str(directory), meta.get("details") or ""
    return assemble(records, meta["category_ids"], source=source, details=details), meta


def _read_meta(path: Path) -> dict:
    meta = read_json(path)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise ValueError(f"{path} has format {found!r}, expected {FORMAT!r}")
    ids = meta.get("category_ids")
    whole = isinstance(ids, list) and all(type(i) is int and abs(i) < 2**62 for i in ids)
    if not whole or ids != sorted(set(ids)):
        raise ValueError(f"{path}: category_ids is not a list of ascending whole numbers")
    for key in ("source", "details", "json_file", "image_root"):
        if not isinstance(meta.get(key), (str, type(None))):
            raise ValueError(f"{path}: {key} is not text")
    return meta


def save_predictions(predictions: StagePredictions, directory: str | Path, meta: Mapping | None = None) -> None:
    """Write predictions as one shard and a ``meta.json``; the inverse of :func:`load_predictions`."""
    write_meta(
        Path(directory),
        {
            "category_ids": predictions.category_ids.tolist(),
            "source": predictions.source,
            "details": predictions.details,
            **(meta or {}),
        },
    )
    starts = {
        kind: [np.searchsorted(t.image, np.arange(len(predictions.image_ids) + 1)) for t in getattr(predictions, kind)]
        for kind in ("queries", "detections")
    }

    def cut(kind: str, n: int) -> list[DetectionTable]:
        tables = getattr(predictions, kind)
        return [t.take(slice(b[n], b[n + 1])) for t, b in zip(tables, starts[kind], strict=True)]

    records = [
        ImageTables(i, tuple(size), cut("queries", n), cut("detections", n))
        for n, (i, size) in enumerate(
            zip(predictions.image_ids.tolist(), predictions.image_sizes.tolist(), strict=True)
        )
    ]
    write_shard(Path(directory) / "part-0-0000.npz", records)


def from_coco_results(paths: Sequence[str | Path], coco, *, source: str = "") -> StagePredictions:
    """Predictions from COCO result files, one per stage.

    Args:
        paths: JSON files in the order of the stages.
        coco: the ``pycocotools.coco.COCO`` that they are predictions for.
        source: see :class:`~sqr.evaluation.tables.StagePredictions`.

    Raises:
        ValueError: no file, a file that is not a list of results, an image or a category that ``coco`` lacks,
            or ``query_id`` in some rows only.
    """
    if not paths:
        raise ValueError("name one COCO result file a stage, first stage first")
    images = np.unique(np.asarray(coco.getImgIds()))
    categories = np.asarray(sorted(coco.getCatIds()))
    detections = [_read_results(Path(p), images, categories) for p in paths]
    sizes = [(coco.imgs[i].get("height", 0), coco.imgs[i].get("width", 0)) for i in images.tolist()]
    return StagePredictions(
        image_ids=images,
        image_sizes=np.asarray(sizes, dtype=np.int32).reshape(-1, 2),
        category_ids=categories,
        queries=[_best_of_each_query(t) for t in detections],
        detections=detections,
        source=source or ", ".join(Path(p).name for p in paths),
    )


def _read_results(path: Path, images: np.ndarray, categories: np.ndarray) -> DetectionTable:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise ValueError(f"{path} is not a COCO result file: it holds a {type(rows).__name__}, not a list of results")
    if not rows:
        return DetectionTable.empty(np.float64)
    for number, row in enumerate(rows):
        problem = _problem_of_result(row)
        if problem:
            raise ValueError(f"{path}: result {number}: {problem}")
    with_query = sum("query_id" in r for r in rows)
    if with_query not in (0, len(rows)):
        raise ValueError(f"{path}: {with_query} of {len(rows)} results have a query_id; give it to all or to none")
    image_ids, labels = (np.asarray([r[n] for r in rows]) for n in ("image_id", "category_id"))
    for name, values, known in (("image_id", image_ids, images), ("category_id", labels, categories)):
        strangers = np.setdiff1d(values, known)
        if len(strangers):
            raise ValueError(f"{path}: {name} {strangers[:5].tolist()} is not in the annotation file")
    table = DetectionTable(
        image=np.searchsorted(images, image_ids).astype(np.int32),
        query=np.asarray([r.get("query_id", -1) for r in rows], dtype=np.int32),
        label=np.searchsorted(categories, labels).astype(np.int32),
        score=np.asarray([r["score"] for r in rows], dtype=np.float64),
        box=np.asarray([r["bbox"] for r in rows], dtype=np.float64).reshape(-1, 4),
    )
    return table.take(np.argsort(table.image, kind="stable"))


def _problem_of_result(row: object) -> str:
    """What is wrong with one result; empty if nothing is."""
    if not isinstance(row, dict):
        return f"it is a {type(row).__name__}, not an object"
    for key in ("image_id", "category_id", *(["query_id"] if "query_id" in row else [])):
        if (
            type(row.get(key)) is not int
            or not -(2**31) <= row[key] < 2**62
            or (key == "query_id" and row[key] >= 2**31)
        ):
            return f"{key} is {str(row.get(key))[:50]}, not a whole number"
    box = row.get("bbox")
    numbers = [row.get("score"), *(box if isinstance(box, list) and len(box) == 4 else [None])]
    if not all(type(x) in (int, float) and abs(x) < 1e300 for x in numbers):
        return "score is not a finite number, or bbox not four of them"
    return ""


def _best_of_each_query(table: DetectionTable) -> DetectionTable:
    if not len(table) or (table.query < 0).any():
        return DetectionTable.empty(table.score.dtype.type)
    order = np.lexsort((-table.score, table.query, table.image))
    first = np.diff(table.image[order], prepend=-1) != 0
    first |= np.diff(table.query[order], prepend=-1) != 0
    return table.take(order[first])


def to_coco_results(table: DetectionTable, predictions: StagePredictions) -> list[dict]:
    """A table as COCO results with ``query_id``, ready for ``json.dump``."""
    images = predictions.image_ids[table.image].tolist()
    categories = predictions.category_ids[table.label].tolist()
    columns = zip(images, categories, table.box.tolist(), table.score.tolist(), table.query.tolist(), strict=True)
    return [{"image_id": i, "category_id": c, "bbox": b, "score": s, "query_id": q} for i, c, b, s, q in columns]
