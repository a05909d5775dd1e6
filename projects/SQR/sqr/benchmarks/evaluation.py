"""Box evaluation against pycocotools: ``benchmark.py evaluation``.

Uses synthetic objects and detections of the size of COCO. Nothing is timed unless both give the same numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import io

import numpy as np
from pycocotools.cocoeval import COCOeval

from ..errors import UserError
from ..evaluation import evaluate_boxes
from ..evaluation.ground_truth import load_coco
from ..evaluation.storage import to_coco_results
from ..evaluation.synthetic import synthetic_dataset, synthetic_predictions
from .reporting import benchmark, print_table
from .timing import interleaved, least_disturbed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--repeats", type=int, default=3)
    parser.set_defaults(device="cpu", threads=1)


@benchmark
def run(args: argparse.Namespace) -> dict:
    """Time both, from results in COCO's format to the summary."""
    dataset, rng = synthetic_dataset(num_images=args.images, num_classes=args.classes)
    predictions = synthetic_predictions(dataset, rng, num_stages=1, top_k=args.detections)
    results = to_coco_results(predictions.detections[0], predictions)
    coco = load_coco(dataset)

    def ours() -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            return evaluate_boxes(coco, results).stats

    def pycocotools() -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluated = COCOeval(coco, coco.loadRes([dict(one) for one in results]), "bbox")
            evaluated.evaluate()
            evaluated.accumulate()
            evaluated.summarize()
        return evaluated.stats

    if not np.array_equal(ours(), pycocotools()):
        raise UserError("the two evaluations disagree")
    times = interleaved({"ours": ours, "pycocotools": pycocotools}, repeats=args.repeats, warmup=0)
    key = least_disturbed("cpu")
    row = {
        "images": args.images,
        "detections": len(results),
        **{f"{name}, s": t[key] / 1e3 for name, t in times.items()},
    }
    row["pycocotools / ours"] = times["pycocotools"][key] / times["ours"][key]
    print_table("box evaluation, medians of CPU time", [row])
    return {"times": times, "rows": [row]}
