"""The report: one self-contained HTML file, no server, no network.

The page is ``assets/report.html`` with embedded style, script and one JSON document. The document contains the
summaries, per-image counts, the galleries' cases and their images as small JPEG data URIs.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..files import write_text
from .analysis import StageAnalysis
from .tracks import QueryTrack, counterpart, follow, worst_cases

ASSETS = Path(__file__).parent / "assets"
IMAGE_SIDE = 480
PICTURES = {
    "confusion": "Confusion matrix: every class at its threshold of the highest F1, IoU 0.5",
    "precision_recall": "Precision by recall",
    "f1": "F1 by score threshold",
    "training": "Training",
}
"""Titles of the figures that a report takes in, by file name."""


def write_report(
    path: str | Path,
    analyses: Mapping[str, StageAnalysis],
    *,
    image_root: str | Path | None = None,
    comparison: Mapping | None = None,
    pictures: Sequence[str | Path] = (),
    title: str = "Stage-wise analysis",
    max_images: int = 200,
) -> Path:
    """Write the report of one model, or of two side by side.

    Args:
        path: of the HTML file.
        analyses: one or two, by name; two must be of the same images.
        image_root: folder that the annotation file's ``file_name`` are relative to; without it (and for images that
            are not there) galleries show boxes on an empty background.
        comparison: result of :func:`~sqr.evaluation.comparison.compare`, for intervals.
        pictures: files written by :func:`~sqr.evaluation.figures.write_figures`; those that the page does not draw
            itself (:data:`PICTURES`, PNG) are embedded.
        title: of the page.
        max_images: images in the galleries, at most.

    Returns:
        ``path``.

    Raises:
        ValueError: no analysis or more than two.
    """
    if not 1 <= len(analyses) <= 2:
        raise ValueError(f"a report shows one or two models, not {len(analyses)}")
    first = next(iter(analyses.values()))
    document = {
        "title": title,
        "names": list(analyses),
        "models": [a.summary() for a in analyses.values()],
        "comparison": comparison,
        "objectsByClass": np.bincount(first.gt.label[~first.gt.crowd], minlength=len(first.gt.class_names)).tolist(),
        "perImage": per_image_counts(analyses),
        "pictures": [
            {"title": PICTURES[path.stem], "src": _data_uri("png", path.read_bytes())}
            for path in map(Path, pictures)
            if path.stem in PICTURES and path.suffix == ".png"
        ],
        "gallery": build_gallery(analyses, image_root=image_root, max_images=max_images),
    }
    # "<" cannot end the script element when it is escaped, whatever class and file names hold.
    data = json.dumps(document, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    page = (ASSETS / "report.html").read_text()
    for mark, text in (
        ("{{TITLE}}", html.escape(title)),
        ("{{STYLE}}", (ASSETS / "report.css").read_text()),
        ("{{SCRIPT}}", (ASSETS / "report.js").read_text()),
        ("{{DATA}}", data),
    ):
        page = page.replace(mark, text)
    write_text(path, page)
    return Path(path)


def per_image_counts(analyses: Mapping[str, StageAnalysis]) -> dict:
    """File names, objects, and every model's true and false positives, how many of them bad, at the first IoU."""
    gt = next(iter(analyses.values())).gt
    count = len(gt.image_ids)
    models = []
    for analysis in analyses.values():
        if not analysis.errors:
            continue
        columns = {}
        for name, cases in (("true", analysis.errors[0].true), ("false", analysis.errors[0].false)):
            columns[name] = np.bincount(cases.image, minlength=count).tolist()
            columns[name + "Bad"] = np.bincount(cases.image[cases.bad], minlength=count).tolist()
        models.append(columns)
    return {
        "names": gt.file_names,
        "objects": np.bincount(gt.image[~gt.crowd], minlength=count).tolist(),
        "models": models,
    }


def build_gallery(analyses: Mapping[str, StageAnalysis], *, image_root: str | Path | None, max_images: int) -> dict:
    """The worst cases of every model at the first IoU, and the images that they are in.

    Returns:
        ``iou``; ``cases``, worst first within each kind, each with the ``stages`` of its query and, with two models,
        those of the other model's query at the same place; ``images``.
    """
    models = list(analyses.values())
    if not all(a.errors for a in models):
        return {"iou": None, "cases": [], "images": []}
    share = max(max_images // (2 * len(models)), 1)
    cases = []
    for m, analysis in enumerate(models):
        errors = analysis.errors[0]
        for kind, found in (("fading", errors.true), ("exacerbation", errors.false)):
            tracks = follow(analysis, errors, found, worst_cases(analysis, found, count=share))
            for rank, track in enumerate(tracks):
                cases.append({"kind": kind, "model": m, "rank": rank, **_case(track, analysis)})
                if len(models) == 2:
                    other = models[1 - m]
                    twin = counterpart(other, other.errors[0], track.image, _place(track, analysis))
                    cases[-1]["other"] = None if twin is None else _stages(twin)
    # Kinds and models take turns, so that the larger differences of one do not displace the other.
    cases.sort(key=lambda c: c["rank"])
    positions = sorted({c["image"] for c in cases})
    where = {p: n for n, p in enumerate(positions)}
    for case in cases:
        case["image"] = where[case["image"]]
    gt = models[0].gt
    images = [_image(gt, models[0].predictions.image_sizes, p, image_root) for p in positions]
    return {"iou": models[0].errors[0].iou, "cases": cases, "images": images}


def _place(track: QueryTrack, analysis: StageAnalysis) -> np.ndarray:
    return analysis.gt.box[track.gt] if track.gt >= 0 else track.box[-1]


def _case(track: QueryTrack, analysis: StageAnalysis) -> dict:
    return {
        "image": track.image,
        "query": track.query,
        "label": int(track.label[-1]),
        "object": None if track.gt < 0 else _rounded(analysis.gt.box[track.gt]),
        "severity": round(track.severity, 4),
        "best": track.best_stage,
        "stages": _stages(track),
    }


def _stages(track: QueryTrack) -> list[dict]:
    return [
        {
            "box": _rounded(track.box[s]),
            "score": round(float(track.score[s]), 4),
            "iou": round(float(track.iou[s]), 4),
            "label": int(track.label[s]),
            "verdict": track.verdict[s],
        }
        for s in range(len(track.score))
    ]


def _image(gt, sizes: np.ndarray, position: int, image_root: str | Path | None) -> dict:
    rows = np.flatnonzero(gt.image == position)
    height, width = sizes[position].tolist()
    source, size = _thumbnail(image_root, gt.file_names[position])
    if size is not None:
        width, height = size
    return {
        "name": gt.file_names[position],
        "width": width,
        "height": height,
        "src": source,
        "objects": [[*_rounded(gt.box[r]), int(gt.label[r])] for r in rows],
    }


def _thumbnail(image_root: str | Path | None, name: str) -> tuple[str | None, tuple[int, int] | None]:
    """A JPEG data URI of at most ``IMAGE_SIDE`` pixels per side, and the size of the original."""
    if image_root is None or not name or not (Path(image_root) / name).is_file():
        return None, None
    from PIL import Image, ImageOps

    with Image.open(Path(image_root) / name) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
        size = image.size
        image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=72, optimize=True)
    return _data_uri("jpeg", buffer.getvalue()), size


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _rounded(box: np.ndarray) -> list[float]:
    return [round(float(x), 1) for x in box]
