"""Puts annotations and image files together and applies every rule."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from .. import yolo
from ..layouts import DatasetFolder, YoloSplit
from .defects import ERROR, Defect
from .probe import ImageFacts, probe_images
from .records import ImageRecord, SplitRecord, read_split

_TOLERANCE = 0.5  # px a box may reach out of its image before it is worth a word: rounding


@dataclass
class Inspection:
    """Everything known of a dataset.

    Attributes:
        dataset: where it lies.
        splits: what could be read.
        facts: of the images of each split, in their order.
        defects: of reading, images, objects, and the dataset as a whole.
        decoded: whether pixels were looked at.
    """

    dataset: DatasetFolder
    splits: dict[str, SplitRecord]
    facts: dict[str, list[ImageFacts]]
    defects: list[Defect] = field(default_factory=list)
    decoded: bool = True

    @property
    def failing(self) -> bool:
        """Whether training or evaluation on some split would fail."""
        return any(defect.severity == ERROR for defect in self.defects)

    def images(self, name: str) -> list[tuple[ImageRecord, ImageFacts]]:
        """The images of a split with what their files are."""
        return list(zip(self.splits[name].images, self.facts[name], strict=True))


def inspect_dataset(
    dataset: DatasetFolder, *, queries: int = 300, decode: bool = True, workers: int | None = None
) -> Inspection:
    """Check a dataset.

    Args:
        dataset: from :func:`sqr.data.find_dataset` or :func:`sqr.data.layouts.single_file`.
        queries: how many a detector has; a training image with more objects cannot be trained on.
        decode, workers: see :func:`~.probe.probe_images`.
    """
    splits = {name: read_split(name, split) for name, split in dataset.splits.items()}
    facts = {
        name: probe_images([image.path for image in split.images], decode=decode, workers=workers)
        for name, split in splits.items()
    }
    inspection = Inspection(dataset, splits, facts, decoded=decode)
    for name, split in splits.items():
        for image, fact in inspection.images(name):
            _check_file(split, image, fact)
            if isinstance(dataset.splits[name], YoloSplit):
                _to_pixels(image, fact)
            _check_objects(split, image, queries if name not in ("val", "test") else None)
        if not split.images and not split.defects:
            split.note("no_images", split.source, "no images")
        elif name == "train" and split.images and not any(not o.crowd for image in split.images for o in image.objects):
            yolo_split = isinstance(dataset.splits[name], YoloSplit)
            looked = f"; labels looked for: {yolo.label_file(split.images[0].path)}, ..." if yolo_split else ""
            split.note("no_boxes", split.source, f"no box to train on{looked}")
        inspection.defects += split.defects
    inspection.defects += [*_class_defects(inspection), *_split_defects(dataset), *_repeated_content(inspection)]
    return inspection


def _to_pixels(image: ImageRecord, fact: ImageFacts) -> None:
    """YOLO's shares of the image become pixels."""
    image.size = None if fact.error else fact.size
    if image.size:
        for item in image.objects:
            item.box = yolo.absolute_box(yolo.LabelRow(0, tuple(item.box)), image.size)


def _check_file(split: SplitRecord, image: ImageRecord, fact: ImageFacts) -> None:
    name = image.file_name
    if fact.error:
        split.note("missing_image" if fact.missing else "undecodable_image", name, fact.error)
        return
    if image.size is not None and image.size not in (fact.size, fact.stored_size):
        size = "{}x{}".format(*fact.size)
        split.note("size_mismatch", name, "{} but annotated as {}x{}".format(size, *image.size))
    if fact.orientation != 1:
        split.note("rotated_image", name, f"EXIF orientation {fact.orientation}")
    if fact.transparent:
        split.note("transparent_image", name, f"mode {fact.mode}")
    kinds = {"F": "float_image", "CMYK": "cmyk_image", "P": "palette_image", "PA": "palette_image"}
    kinds |= dict.fromkeys(("1", "L", "LA", "La"), "grey_image")
    kind = "sixteen_bit_image" if fact.mode.startswith("I") else kinds.get(fact.mode)
    if kind:
        split.note(kind, name, f"mode {fact.mode}")


def _check_objects(split: SplitRecord, image: ImageRecord, queries: int | None) -> None:
    name = image.file_name
    trained = [o for o in image.objects if not o.crowd]
    if len(trained) < len(image.objects):
        split.note("crowd", name, f"{len(image.objects) - len(trained)} crowd regions")
    if queries is not None and len(trained) > queries:
        split.note("too_many_objects", name, f"{len(trained)} objects, {queries} queries")
    for (category, box), count in Counter((o.category, tuple(o.box)) for o in trained).items():
        if count > 1:
            split.note("duplicate_box", name, f"{count} times {category} {_shown(box)}")
    if image.size is None:
        return
    for item in image.objects:
        x, y, w, h = item.box
        clipped = yolo.clip_box(item.box, image.size)
        if min(clipped[2:]) <= 0:
            split.note("degenerate_box", name, f"{item.category} {_shown(item.box)}")
        elif max(-x, -y, x + w - image.size[0], y + h - image.size[1]) > _TOLERANCE:
            split.note("box_outside", name, "{} {} in {}x{}".format(item.category, _shown(item.box), *image.size))


def _shown(box) -> str:
    return "[" + ", ".join(f"{v:.6g}" for v in box) + "]"


def _class_defects(inspection: Inspection) -> list[Defect]:
    readable = [split for split in inspection.splits.values() if split.classes]
    if not readable:
        return []
    first, defects = readable[0], []
    for split in readable[1:]:
        if split.classes != first.classes:
            missing = [c for c in first.classes if c not in split.classes]
            extra = [c for c in split.classes if c not in first.classes]
            parts = [f"{what} {names}" for what, names in (("lacks", missing), ("also has", extra)) if names]
            text = f"other classes than {first.name}: {', '.join(parts) or 'another order'}"
            defects.append(Defect("classes_differ", split.name, split.source, text))
    used = {o.category for split in readable for image in split.images for o in image.objects}
    for name in first.classes:
        if name not in used:
            hint = " (a group that Roboflow adds; --fix removes it)" if name == first.placeholder else ""
            defects.append(Defect("unused_category", "", first.source, f"{name}{hint}"))
    return defects


def _split_defects(dataset: DatasetFolder) -> list[Defect]:
    if dataset.layout == "COCO file":
        return []
    hints = {"train": "set data.train.split to one of these", "val": "set data.val.split to one of these"}
    return [
        Defect("split_missing", "", dataset.root, f"no {name}, only {', '.join(dataset.splits)}; {hint}")
        for name, hint in hints.items()
        if name not in dataset.splits
    ]


def _repeated_content(inspection: Inspection) -> list[Defect]:
    """Files with the same bytes: within a split they count twice, across splits they flatter the evaluation."""
    places = defaultdict(list)
    for name in inspection.splits:
        seen = set()
        for image, fact in inspection.images(name):
            if fact.digest and image.path not in seen:
                places[fact.digest].append((name, image))
                seen.add(image.path)
    defects = []
    for (first_split, first), *others in places.values():
        for name, image in others:
            if image.path != first.path or name != first_split:
                defects.append(Defect("same_content", name, image.file_name, f"as {first_split}: {first.file_name}"))
    return defects
