"""Full-size models on seeded weights: build one from its config, load the published layout, compare."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import seeded
import torch
from scipy.optimize import linear_sum_assignment

from helpers import SHARED, golden_file
from sqr.checkpoint import convert

FIGURES = Path(__file__).parent / "figures"
LOGITS_ATOL = 1e-3
BOXES_ATOL = 1e-4


@functools.cache
def figures(name: str) -> dict:
    return json.loads((FIGURES / f"{name}.json").read_text())


def load_published(model: torch.nn.Module, name: str, layout: str) -> torch.nn.Module:
    """The seeded published state dict through the converter into ``model``, in evaluation mode."""
    data = figures(name)
    converted, report = convert(seeded.state(data["keys"], data["ties"]))
    assert report.layout == layout
    model.load_state_dict(converted, strict=True)
    return model.eval()


def inputs(name: str) -> list[dict]:
    data = figures(name)
    return [
        {"image": image, "height": height, "width": width}
        for image, (height, width) in zip(
            seeded.images(data["image_seed"], data["sizes"]), data["orig_sizes"], strict=True
        )
    ]


def check_sample(ours: torch.Tensor, theirs: dict, atol: float) -> None:
    assert list(ours.shape) == theirs["shape"]
    torch.testing.assert_close(ours.flatten()[theirs["index"]], torch.tensor(theirs["value"]), atol=atol, rtol=0)


def check_stages(name: str, logits: torch.Tensor, boxes: torch.Tensor) -> None:
    """``(S, B, Q, K)`` and ``(S, B, Q, 4)`` against the sampled figures, and against all of them where they lie."""
    data = figures(name)
    check_sample(logits, data["logits"], LOGITS_ATOL)
    check_sample(boxes, data["boxes_cxcywh"], BOXES_ATOL)
    if (SHARED / "golden").exists():
        full = golden_file(f"full/{name}.pt")
        torch.testing.assert_close(logits, full["logits"], atol=LOGITS_ATOL, rtol=0)
        torch.testing.assert_close(boxes, full["boxes_cxcywh"], atol=BOXES_ATOL, rtol=0)


def check_results(name: str, outputs: list[dict], *, score_atol: float = 1e-4, box_atol: float = 0.1) -> None:
    """Detections against the official post-processor's: the sorted scores, and every detection above the cut.

    Scores differ by up to ``score_atol`` from one CPU to another, so detections whose scores are closer than that
    change places: each official detection needs one of ours, its own, of the same class, score and box. Those within
    ``score_atol`` of the last one may have been cut off instead.
    """
    if not (SHARED / "golden").exists():
        return
    for ours, theirs in zip(outputs, golden_file(f"full/{name}.pt")["results"], strict=True):
        instances, scores = ours["instances"], theirs["scores"]
        torch.testing.assert_close(instances.scores, scores, atol=score_atol, rtol=0)
        equal = (scores[:, None] - instances.scores).abs() <= score_atol
        equal &= theirs["labels"][:, None] == instances.pred_classes
        equal &= ((theirs["boxes"][:, None] - instances.pred_boxes.tensor).abs() <= box_atol).all(-1)
        rows, columns = linear_sum_assignment(equal.numpy(), maximize=True)
        missing = rows[~equal[rows, columns].numpy()]
        cut = scores.min() + score_atol
        assert (scores > cut).any()
        assert (scores[missing] <= cut).all(), f"no such detection among ours: official rows {missing.tolist()}"
