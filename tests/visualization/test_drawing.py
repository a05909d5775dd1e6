"""Pictures of detections: colours by class, labels beside each other, letters that grow with the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from sqr.visualization import draw_detections
from sqr.visualization.drawing import _label_place, _overlap, class_color

NAMES = ["king", "queen", "jack", "ten"]


def detections(boxes, classes, size) -> Instances:
    """In pixels of an image of ``(height, width)``."""
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.pred_classes = torch.tensor(classes)
    instances.scores = torch.full((len(classes),), 0.9)
    return instances


def color_mask(picture, label: int) -> np.ndarray:
    return (picture == np.array(class_color(label), dtype=np.uint8)).all(-1)


def test_a_class_has_one_colour_in_all_pictures():
    image = np.zeros((300, 400, 3), np.uint8)
    first = draw_detections(image, detections([[20, 60, 90, 200]], [2], (300, 400)), NAMES)
    second = draw_detections(image, detections([[200, 60, 290, 200], [20, 60, 90, 200]], [1, 2], (300, 400)), NAMES)
    left = slice(0, first.shape[1] // 3)
    assert color_mask(first[:, left], 2).any()
    assert np.array_equal(first[:, left], second[:, left])
    assert len({class_color(label) for label in range(80)}) == 80


def test_labels_of_one_place_stand_beside_each_other():
    taken = []
    for box in [[50, 100, 200, 220]] * 3 + [[390, 290, 400, 300]]:  # the last in the corner of the picture
        place = _label_place(box, (60, 14), (400, 300), taken)
        assert place[0] >= 0 and place[1] >= 0 and place[2] <= 400 and place[3] <= 300
        assert not any(_overlap(place, other) for other in taken)
        taken.append(place)


def test_the_best_class_of_a_place_is_read():
    image = np.zeros((300, 400, 3), np.uint8)
    together = draw_detections(image, detections([[50, 100, 200, 220]] * 3, [0, 1, 2], (300, 400)), NAMES)
    best = draw_detections(image, detections([[50, 100, 200, 220]], [0], (300, 400)), NAMES)
    label = best.any(-1) & (np.arange(best.shape[0])[:, None] < 100 * best.shape[0] // 300)  # above the box
    assert label.sum() > 500 and np.array_equal(together[label], best[label])


@pytest.mark.parametrize(("width", "height"), [(320, 240), (4000, 3000)])
def test_labels_are_legible_in_small_and_large_images(width, height):
    image = np.zeros((height, width, 3), np.uint8)
    box = [0.25 * width, 0.5 * height, 0.75 * width, height]
    picture = draw_detections(image, detections([box], [0], (height, width)), NAMES)
    assert max(picture.shape) == max(width, 512)
    margin = color_mask(picture, 0)[: picture.shape[0] // 2, picture.shape[1] // 4 + 1]  # of the label above the box
    assert margin.sum() >= 13 and 0.02 < margin.sum() / picture.shape[0] < 0.06


def test_boxes_are_drawn_inside_of_the_image():
    image = np.zeros((300, 600, 3), np.uint8)
    instances = detections([[-50, 100, 900, 500]], [3], (300, 600))
    picture = draw_detections(image, instances, NAMES, smallest=0)
    assert picture.shape == image.shape and color_mask(picture, 3)[:, [0, -1]].any(0).all()
    assert instances.pred_boxes.tensor[0, 0] == -50  # not changed
    nothing = instances[:0]
    assert not draw_detections(image, nothing, NAMES).any()
