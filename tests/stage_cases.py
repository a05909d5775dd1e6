"""Builders of tiny datasets and predictions for the evaluation tests."""

import numpy as np
from hypothesis import strategies as st

from sqr.evaluation.tables import DetectionTable, StagePredictions
from stage_brute_force import quiet_coco


def dataset(objects, num_images=1, num_classes=2, size=100):
    """A COCO dataset; ``objects`` are dicts with image, label, box (xywh) and optional crowd, area, id."""
    annotations = [
        {
            "id": o.get("id", n),
            "image_id": 10 + o.get("image", 0),
            "category_id": 1 + 2 * o.get("label", 0),
            "bbox": [float(x) for x in o["box"]],
            "area": float(o.get("area", o["box"][2] * o["box"][3])),
            "iscrowd": int(o.get("crowd", 0)),
        }
        for n, o in enumerate(objects, start=1)
    ]
    return {
        "images": [{"id": 10 + i, "width": size, "height": size, "file_name": f"{i}.jpg"} for i in range(num_images)],
        "categories": [{"id": 1 + 2 * k, "name": f"class{k}"} for k in range(num_classes)],
        "annotations": annotations,
    }


def table(rows):
    """A table from dicts with image, query, label, score and box (xywh), in order of image."""
    rows = sorted(rows, key=lambda r: r.get("image", 0))
    return DetectionTable(
        image=np.asarray([r.get("image", 0) for r in rows], dtype=np.int32),
        query=np.asarray([r.get("query", 0) for r in rows], dtype=np.int32),
        label=np.asarray([r.get("label", 0) for r in rows], dtype=np.int32),
        score=np.asarray([r["score"] for r in rows], dtype=np.float32),
        box=np.asarray([r["box"] for r in rows], dtype=np.float32).reshape(-1, 4),
    )


def predictions(stages, num_images=1, num_classes=2, detections=None, size=100):
    """Predictions whose ``queries`` (and ``detections``, unless given) are the listed rows of every stage."""
    queries = [table(rows) for rows in stages]
    return StagePredictions(
        image_ids=np.arange(10, 10 + num_images),
        image_sizes=np.full((num_images, 2), size, dtype=np.int32),
        category_ids=1 + 2 * np.arange(num_classes),
        queries=queries,
        detections=queries if detections is None else [table(rows) for rows in detections],
    )


# Few coordinates and few scores, so that ties of IoU, of score and with the threshold all happen.
boxes = st.tuples(*[st.sampled_from([0, 10, 20, 40])] * 2, *[st.sampled_from([10, 20, 30, 40])] * 2)
scores = st.sampled_from([0.05, 0.1, 0.2, 0.5, 0.9])


@st.composite
def random_cases(draw):
    """A ``(COCO, StagePredictions)`` pair with up to 3 images, 3 classes, 5 queries and 4 stages."""
    images, classes = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    queries, stages = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    image, label = st.integers(0, images - 1), st.integers(0, classes - 1)
    objects = draw(
        st.lists(
            st.fixed_dictionaries({"image": image, "label": label, "box": boxes, "crowd": st.integers(0, 4)}),
            max_size=8,
        )
    )
    for o in objects:
        o["crowd"] = int(o["crowd"] == 4)
    pool = [o["box"] for o in objects]
    near = st.one_of(boxes, st.sampled_from(pool)) if pool else boxes

    def rows(pairs):
        return [
            {"image": i, "query": q, "label": k, "score": draw(scores), "box": draw(near)} for i, q, k in sorted(pairs)
        ]

    best = [[(i, q, draw(label)) for i in range(images) for q in range(queries)] for _ in range(stages)]
    pair = st.tuples(image, st.integers(0, queries - 1), label)
    top = [draw(st.sets(pair, max_size=12)) for _ in range(stages)]
    made = predictions([rows(b) for b in best], images, classes, [rows(t) for t in top])
    return quiet_coco(dataset(objects, images, classes)), made
