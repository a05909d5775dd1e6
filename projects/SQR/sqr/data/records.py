"""The records that every annotation format is parsed into: splits, images, objects, and the defects found.

These records are the only interface between annotation files and this package: the check, its cleaned copy, training,
evaluation and analysis use them, or the COCO file that :func:`coco_content` makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .defects import ERROR, KINDS, Defect


@dataclass(slots=True)
class ObjectRecord:
    """One annotated object.

    Attributes:
        category: class name.
        box: ``[x, y, width, height]`` in pixels, inside the image and with positive sides.
        crowd: a region of many objects.
        area: in square pixels; decides between COCO's small, medium and large.
        id: of the annotation.
    """

    category: str
    box: list[float]
    crowd: bool = False
    area: float = field(default=0.0, compare=False)
    id: int = field(default=0, compare=False)


@dataclass(slots=True)
class ImageRecord:
    """One image.

    Attributes:
        file_name: relative to the split's image folder.
        path: of the file.
        size: ``(width, height)`` that its annotations refer to; None if it could not be read.
        objects: on it.
        id: of the image.
    """

    file_name: str
    path: str
    size: tuple[int, int] | None
    objects: list[ObjectRecord] = field(default_factory=list)
    id: int = 0


@dataclass
class SplitRecord:
    """The content of a split, as far as it could be read.

    Attributes:
        name: of the split.
        source: the annotation file or folder, or ``data.yaml``.
        folder: to which the images' file names are relative.
        classes: names in the order of their class numbers.
        category_ids: of the classes.
        images: each with its objects.
        defects: found while reading.
        placeholder: a class that Roboflow adds as the group of all others; no object is of it.
        dropped_objects: number of unusable objects.
        dropped_images: name of each unusable image, and the reason.
        dropped_classes: the same of classes.
        hint: where objects were looked for, for the message that there are none.
        as_is: COCO's evaluation can use the annotation file unchanged.
    """

    name: str
    source: str
    folder: str = ""
    classes: list[str] = field(default_factory=list)
    category_ids: list[int] = field(default_factory=list)
    images: list[ImageRecord] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)
    placeholder: str | None = None
    dropped_objects: int = 0
    dropped_images: list[tuple[str, str]] = field(default_factory=list)
    dropped_classes: list[tuple[str, str]] = field(default_factory=list)
    hint: str = ""
    as_is: bool = True

    def note(self, kind: str, file: str, text: str) -> None:
        """Add a defect."""
        self.defects.append(Defect(kind, self.name, file, text.encode("utf-8", "backslashreplace").decode()))

    def drop(self, kind: str, file: str, text: str) -> None:
        """Add a defect because of which an object is left out."""
        self.note(kind, file, text)
        self.dropped_objects += 1

    @property
    def has_objects(self) -> bool:
        """Whether there is any object to train or evaluate on."""
        return any(not item.crowd for image in self.images for item in image.objects)


def raise_errors(record: SplitRecord) -> None:
    """Raise an error for a split that training or evaluation cannot use.

    Raises:
        FileNotFoundError: images are missing.
        ValueError: any other error; the message counts the errors of this kind and shows the first.
    """
    errors = [defect for defect in record.defects if defect.severity == ERROR]
    if not errors:
        return
    first = errors[0]
    same = sum(defect.kind == first.kind for defect in errors)
    place = "" if first.file == record.source else f"{first.file}: "
    message = f"{record.source!r}: {KINDS[first.kind][1]}: {place}{first.text}"
    if len(errors) > 1:
        message += f" ({same} of this kind, {len(errors)} errors in all)"
    message += "; tools/check_dataset.py lists them, --fix leaves out what cannot be used"
    raise FileNotFoundError(message) if first.kind == "missing_image" else ValueError(message)


def coco_content(record: SplitRecord) -> dict:
    """A split in COCO's format, with only what training and COCO's evaluation read."""
    ids = dict(zip(record.classes, record.category_ids, strict=True))
    annotations = [
        {"id": item.id, "image_id": image.id, "category_id": ids[item.category], "bbox": item.box, "area": item.area,
         "iscrowd": int(item.crowd)}
        for image in record.images
        for item in image.objects
    ]  # fmt: skip
    images = [
        {"id": image.id, "file_name": image.file_name, "width": image.size[0], "height": image.size[1]}
        for image in record.images
        if image.size
    ]
    categories = [{"id": id_, "name": name} for name, id_ in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}
