"""Combines annotations with image files and applies every rule."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from ..defects import ERROR, Defect
from ..layouts import DatasetFolder
from ..records import ImageRecord, SplitRecord
from ..values import shown_box
from .probe import ImageFacts, probe_images


@dataclass
class Inspection:
    """Everything known about a dataset.

    Attributes:
        dataset: its location.
        splits: what could be read.
        facts: of the images of each split, in their order.
        defects: of reading, images, objects, and the dataset as a whole.
        decoded: whether pixels were decoded.
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
        """The images of a split with the facts about their files."""
        return list(zip(self.splits[name].images, self.facts[name], strict=True))


def inspect_dataset(
    dataset: DatasetFolder, *, queries: int = 300, decode: bool = True, workers: int | None = None
) -> Inspection:
    """Check a dataset.

    Args:
        dataset: from :func:`sqr.data.find_dataset` or :func:`sqr.data.layouts.single_file`.
        queries: of the detector; a training image with more objects cannot be trained on.
        decode, workers: see :func:`~.probe.probe_images`.
    """
    splits = {name: split.read(name) for name, split in dataset.splits.items()}
    facts = {
        name: probe_images([image.path for image in split.images], decode=decode, workers=workers)
        for name, split in splits.items()
    }
    inspection = Inspection(dataset, splits, facts, decoded=decode)
    for name, split in splits.items():
        for image, fact in inspection.images(name):
            _check_file(split, image, fact)
            _check_objects(split, image, queries if name not in ("val", "test") else None)
        if not split.has_objects and not _unreadable(split):
            kind = "no_boxes" if name in ("train", "val") else "no_boxes_to_evaluate"
            split.note(kind, split.source, f"no usable box{split.hint}")
        inspection.defects += split.defects
    inspection.defects += [*_class_defects(inspection), *_split_defects(dataset), *_repeated_content(inspection)]
    return inspection


def _unreadable(split: SplitRecord) -> bool:
    """Whether the defects found while reading already explain why the split is empty."""
    return any(defect.kind in ("unreadable_annotations", "no_images") for defect in split.defects)


def _check_file(split: SplitRecord, image: ImageRecord, fact: ImageFacts) -> None:
    name = image.file_name
    if fact.error:
        if not fact.missing and image.size is not None:  # otherwise it was noted while the annotations were read
            split.note("undecodable_image", name, fact.error)
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
            split.note("duplicate_box", name, f"{count} times {category} {shown_box(box)}")


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
    if dataset.partial:
        return []
    there = ", ".join(dataset.splits)
    hint = "--split 0.2 --fix FOLDER divides it" if len(dataset.splits.keys() - {"test"}) == 1 else ""
    return [
        Defect("split_missing", "", dataset.root,
               f"no {name}, only {there}; {hint or f'set data.{name}.split to one of these'}")
        for name in ("train", "val")
        if name not in dataset.splits
    ]  # fmt: skip


def _repeated_content(inspection: Inspection) -> list[Defect]:
    """Files with the same bytes: within a split they count twice, across splits they bias the evaluation."""
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
