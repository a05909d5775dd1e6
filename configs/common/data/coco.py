"""COCO 2017 detection with DETR's augmentation. Needs
``$DETECTRON2_DATASETS/coco/{annotations,train2017,val2017}``.

``data`` holds what another dataset or another image size changes, every value a plain override:

    data.min_size_train=[320,352,384] data.max_size=640 data.min_size_test=384

- ``root``: folder of a whole dataset, in a layout that ``sqr.data.find_dataset`` knows (docs/custom_data.md).
- ``train`` and ``val``: which ``split`` of the root each is; or ``annotations`` (COCO json) and ``images`` (folder),
  which win over the root; or, without both, ``name`` (registered with Detectron2).
- ``num_classes``: null follows the data, as an override of where the data is does; a number that differs from the data
  is an error before training.
- ``class_names``: filled in from the data, for the saved config.
- ``min_size_train``: shortest edges in pixels, one drawn for each image; ``min_size_test``: the one of
  evaluation.
- ``max_size``: longest edge in pixels, training and evaluation.
- ``flip_prob``, ``crop_prob``: chance of the horizontal flip and of DETR's resize-crop-resize branch, whose
  sizes keep DETR's proportions of the largest ``min_size_train``.
- ``max_dets_per_image``: best detections of an image and class that AP counts; null is COCO's 100, or more where an
  image has more objects. ``model.postprocessor.topk`` is then raised to it.
- ``color_jitter``: strength of random brightness, contrast and saturation, 0 for none.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from omegaconf import OmegaConf

from sqr.data import (
    DetectionMapper,
    detection_dataset_name,
    get_detection_dataset,
    inference_augmentations,
    training_augmentations,
)
from sqr.engine import build_train_loader
from sqr.evaluation import BoxEvaluator

data = {
    "root": None,
    "train": {"split": "train", "annotations": None, "images": None, "name": "coco_2017_train"},
    "val": {"split": "val", "annotations": None, "images": None, "name": "coco_2017_val"},
    "num_classes": 80,
    "class_names": None,
    "min_size_train": [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
    "min_size_test": 800,
    "max_size": 1333,
    "max_dets_per_image": None,
    "flip_prob": 0.5,
    "crop_prob": 0.5,
    "color_jitter": 0.0,
}

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(get_detection_dataset)(
        name="${data.train.name}",
        annotations="${data.train.annotations}",
        images="${data.train.images}",
        root="${data.root}",
        split="${data.train.split}",
        num_classes="${data.num_classes}",
        training=True,
        filter_empty=False,  # DETR trains on images without objects too
    ),
    mapper=L(DetectionMapper)(
        is_train=True,
        augmentations=L(training_augmentations)(
            min_size="${data.min_size_train}",
            max_size="${data.max_size}",
            flip_prob="${data.flip_prob}",
            crop_prob="${data.crop_prob}",
            color_jitter="${data.color_jitter}",
        ),
        image_format="RGB",
    ),
    total_batch_size=16,
    aspect_ratio_grouping=False,  # as DETR
    num_workers=4,
)

dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset)(
        name="${data.val.name}",
        annotations="${data.val.annotations}",
        images="${data.val.images}",
        root="${data.root}",
        split="${data.val.split}",
        num_classes="${data.num_classes}",
        training=False,
        filter_empty=False,
    ),
    mapper=L(DetectionMapper)(
        is_train=False,
        augmentations=L(inference_augmentations)(min_size="${data.min_size_test}", max_size="${data.max_size}"),
        image_format="RGB",
    ),
    batch_size=1,
    num_workers=4,
)

dataloader.evaluator = L(BoxEvaluator)(
    dataset_name=L(detection_dataset_name)(
        name="${data.val.name}",
        annotations="${data.val.annotations}",
        images="${data.val.images}",
        root="${data.root}",
        split="${data.val.split}",
    ),
    implementation="vectorised",  # or "pycocotools": the same numbers, many times slower
    max_dets_per_image="${data.max_dets_per_image}",
    output_dir="${train.output_dir}",
)
