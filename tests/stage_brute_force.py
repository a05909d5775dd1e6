"""Literal, slow implementations of the definitions, one detection at a time, for comparison with the fast
ones."""

import contextlib
import io

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def quiet_coco(dataset):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
    return coco


def results_of(predictions, kind, stage):
    """COCO results of one stage, with the query id of each."""
    table = getattr(predictions, kind)[stage]
    return [
        {
            "image_id": predictions.image_ids[table.image[i]].item(),
            "category_id": predictions.category_ids[table.label[i]].item(),
            "bbox": [float(x) for x in table.box[i]],
            "score": float(table.score[i]),
            "query": int(table.query[i]),
        }
        for i in range(len(table))
    ]


def coco_eval(coco, results):
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def objects_of(coco, image_id, category_id):
    return [a for a in coco.imgToAnns[image_id] if a["category_id"] == category_id]


def overlap(box, obj):
    return float(mask_utils.iou([box], [obj["bbox"]], [int(obj.get("iscrowd", 0))])[0, 0])


def walk(objects, detections, threshold, max_dets):
    """COCO's greedy matching in one image and class: a list of (detection, matched object or None)."""
    detections = sorted(detections, key=lambda d: -d["score"])[:max_dets]
    objects = sorted(objects, key=lambda o: int(o.get("iscrowd", 0)))
    taken, out = set(), []
    for d in detections:
        best, chosen = min(threshold, 1 - 1e-10), None
        for n, o in enumerate(objects):
            crowd = bool(o.get("iscrowd", 0))
            if n in taken and not crowd:
                continue
            if chosen is not None and not objects[chosen].get("iscrowd", 0) and crowd:
                break
            iou = overlap(d["bbox"], o)
            if iou < best:
                continue
            best, chosen = iou, n
        if chosen is not None:
            taken.add(chosen)
        out.append((d, None if chosen is None else objects[chosen]))
    return out


def walk_all(coco, results, threshold, max_dets):
    return {
        (i, c): walk(
            objects_of(coco, i, c),
            [r for r in results if r["image_id"] == i and r["category_id"] == c],
            threshold,
            max_dets,
        )
        for i in sorted(coco.getImgIds())
        for c in sorted(coco.getCatIds())
    }


def rates(coco, predictions, threshold, max_dets=300):
    """Counts of fading, exacerbation and recoverable misses, by the letter."""
    stages = [
        walk_all(coco, results_of(predictions, "queries", s), threshold, max_dets)
        for s in range(predictions.num_stages)
    ]
    tp = faded = fp = exacerbated = fn = recoverable = 0
    for cell, outcome in stages[-1].items():
        for d, o in outcome:
            if o is None:
                fp += 1
                exacerbated += any(_fp_case(stage[cell], d) for stage in stages[-2::-1])
            elif not o.get("iscrowd", 0):
                tp += 1
                u = overlap(d["bbox"], o)
                faded += any(
                    e["query"] == d["query"] and overlap(e["bbox"], o) >= u and e["score"] > d["score"]
                    for stage in stages[-2::-1]
                    for e, _ in stage[cell]
                )
        found = [o["id"] for _, o in outcome if o is not None]
        for o in objects_of(coco, *cell):
            if not o.get("iscrowd", 0) and o["id"] not in found:
                fn += 1
                recoverable += any(
                    m is not None and m["id"] == o["id"] and e["score"] > 0.1
                    for stage in stages[:-1]
                    for e, m in stage[cell]
                )
    return {
        "tp": tp,
        "faded": faded,
        "fp": fp,
        "exacerbated": exacerbated,
        "fn": fn,
        "recoverable": recoverable,
    }


def _fp_case(outcome, d):
    for e, o in outcome:
        if e["query"] != d["query"]:
            continue
        if o is None and e["score"] < d["score"]:
            return True
        if o is not None and not o.get("iscrowd", 0):
            return True
    return False


def oracle_ap(coco, predictions, thresholds, max_dets=100):
    """AP (as a share) of the best stage of each detection, the last stage's matching kept."""
    values = [_oracle_at(coco, predictions, t, max_dets) for t in thresholds]
    values = np.concatenate(values) if values else np.zeros(0)
    return float(values.mean()) if values.size else float("nan")


def _oracle_at(coco, predictions, threshold, max_dets):
    stages = [
        walk_all(coco, results_of(predictions, "detections", s), threshold, max_dets)
        for s in range(predictions.num_stages)
    ]
    curves = []
    for c in sorted(coco.getCatIds()):
        rows, objects = [], 0
        for i in sorted(coco.getImgIds()):
            objects += sum(not o.get("iscrowd", 0) for o in objects_of(coco, i, c))
            for d, o in stages[-1][i, c]:
                if o is not None and o.get("iscrowd", 0):
                    continue
                rows.append((_best_score(stages, (i, c), d, o, threshold), o is not None))
        if objects:
            curves.append(_interpolate(rows, objects))
    return np.asarray(curves).reshape(-1)


def _best_score(stages, cell, d, o, threshold):
    score = d["score"]
    for stage in stages[-2::-1]:
        for e, m in stage[cell]:
            if e["query"] != d["query"]:
                continue
            if o is not None and overlap(e["bbox"], o) >= threshold and e["score"] > score:
                score = e["score"]
            if o is None and m is None and e["score"] < score:
                score = e["score"]
    return score


def _interpolate(rows, objects):
    rows = sorted(rows, key=lambda r: -r[0])
    points, tp = [], 0
    for n, (_, right) in enumerate(rows, start=1):
        tp += right
        points.append((tp / objects, tp / (n + np.spacing(1))))
    return [max((p for r, p in points if r >= level), default=0.0) for level in np.linspace(0, 1, 101)]
