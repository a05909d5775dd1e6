"""The kinds of defects, and which of them prevent training."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING = "error", "warning"

# Kind to severity and description. An error is a defect that training or evaluation on that split refuses or fails on.
KINDS: dict[str, tuple[str, str]] = {
    "unreadable_annotations": (ERROR, "annotation file that cannot be used"),
    "missing_field": (ERROR, "record without a field that is needed"),
    "missing_image": (ERROR, "listed image whose file is not there"),
    "undecodable_image": (ERROR, "image that cannot be decoded"),
    "float_image": (ERROR, "image of floats, whose range nothing states"),
    "size_mismatch": (ERROR, "image of another size than its annotations say"),
    "bad_label": (ERROR, "row of a label file that is no object"),
    "bad_box": (ERROR, "box that is not four finite numbers"),
    "bad_flag": (ERROR, "iscrowd or ignore that is neither true nor false"),
    "duplicate_image_id": (ERROR, "image id used twice"),
    "duplicate_category_id": (ERROR, "category id used twice"),
    "duplicate_category_name": (ERROR, "two categories of one name (--fix makes them one)"),
    "unknown_category": (ERROR, "object of a category that is not listed"),
    "unknown_image": (ERROR, "object of an image that is not listed"),
    "ignore_flag": (ERROR, "annotation with 'ignore' (iscrowd says that a region counts neither way; --fix sets it)"),
    "too_many_objects": (ERROR, "training image with more objects than the detector has queries"),
    "no_images": (ERROR, "split without images"),
    "no_boxes": (ERROR, "training or validation split without a usable box"),
    "boxes_are_shares": (
        ERROR,
        "split whose boxes are all below 1 pixel (shares of the image instead of pixels?)",
    ),
    "classes_differ": (ERROR, "split with other classes than the first one"),
    "split_missing": (ERROR, "dataset without a split that training needs"),
    "box_outside": (WARNING, "box that reaches out of its image (clipped)"),
    "degenerate_box": (WARNING, "box without area in its image (left out)"),
    "turned_box": (WARNING, "box of negative width or height (turned round)"),
    "tiny_box": (WARNING, "box below 1 pixel in width and height"),
    "duplicate_box": (WARNING, "the same box and class twice in an image"),
    "crowd": (WARNING, "crowd region (training leaves it out, evaluation ignores detections on it)"),
    "renumbered_ids": (WARNING, "ids that COCO's evaluation cannot use (renumbered)"),
    "bad_area": (WARNING, "area that cannot be that of its box (the box's area is taken)"),
    "incomplete_annotation": (WARNING, "annotation without area or iscrowd (the box's area and 0 are taken)"),
    "no_boxes_to_evaluate": (WARNING, "split without a box: nothing can be measured on it"),
    "renamed_image": (WARNING, "image file of another spelling than its annotations (read)"),
    "image_without_label": (WARNING, "image without an annotation file (left out)"),
    "label_without_image": (WARNING, "label file without an image"),
    "repeated_image": (WARNING, "image file listed more than once"),
    "same_content": (WARNING, "image with the same content as another"),
    "unused_category": (WARNING, "category without a box"),
    "grey_image": (WARNING, "grey image (repeated over three channels)"),
    "transparent_image": (WARNING, "image with transparency (left out: what lies under it shows)"),
    "palette_image": (WARNING, "palette image (converted)"),
    "cmyk_image": (WARNING, "image in print colours (converted)"),
    "sixteen_bit_image": (WARNING, "image of more than 8 bits (the upper 8 of 16 are used)"),
    "rotated_image": (WARNING, "image that EXIF turns or mirrors (handled here; other tools may not)"),
}

# Kinds that are reported in one line, however often they occur.
TRIVIAL = frozenset(("incomplete_annotation", "crowd", "grey_image", "palette_image", "rotated_image"))


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong.

    Attributes:
        kind: a key of :data:`KINDS`.
        split: where; empty for the dataset as a whole.
        file: the image or annotation file concerned.
        text: what is wrong with it, in a few words.
    """

    kind: str
    split: str
    file: str
    text: str

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind

    @property
    def severity(self) -> str:
        """``error`` or ``warning``."""
        return KINDS[self.kind][0]
