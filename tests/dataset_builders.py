"""Small datasets on disk in every layout that ``sqr.data`` knows, all with the same content."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

CLASSES = ("cat", "dog", "owl")
# split: images as (name, (width, height), objects as (class number, [x, y, width, height]))
CONTENT = {
    "train": [
        ("a.png", (64, 48), [(0, [4, 6, 20, 12]), (2, [30, 8, 25, 33])]),
        ("b.png", (40, 56), [(1, [10, 10, 12, 14])]),
        ("c.png", (64, 64), []),
    ],
    "val": [
        ("d.png", (48, 48), [(0, [3, 3, 30, 20]), (1, [20, 20, 16, 16])]),
        ("e.png", (64, 48), [(2, [2, 2, 9, 9])]),
    ],
    "test": [("f.png", (56, 40), [(1, [8, 8, 24, 16])])],
}
FOLDERS = {"train": "train", "val": "valid", "test": "test"}  # Roboflow's names


def pixels(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth random colours, so that JPEG keeps them about as they are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR))


def save_image(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(size, seed=sum(map(ord, path.name)))).save(path)


def coco_content(images, classes=CLASSES) -> dict:
    """A split in COCO's format."""
    content = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": n} for i, n in enumerate(classes)]}
    for number, (name, (width, height), objects) in enumerate(images, start=1):
        content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        for label, box in objects:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": list(box),
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return content


def write_coco(root: Path, content=CONTENT, classes=CLASSES) -> Path:
    """``annotations/instances_<split>.json`` and ``<split>/``."""
    (root / "annotations").mkdir(parents=True)
    for split, images in content.items():
        for name, size, _ in images:
            save_image(root / split / name, size)
        write_split(root, split, coco_content(images, classes))
    return root


def write_split(root: Path, split: str, content: dict) -> None:
    """(Re)write one annotation file of :func:`write_coco`'s layout."""
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def read_split_file(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def write_coco_2017(root: Path) -> Path:
    """``annotations/instances_train2017.json`` and ``images/train2017/``."""
    (root / "annotations").mkdir(parents=True)
    for split, images in CONTENT.items():
        for name, size, _ in images:
            save_image(root / "images" / f"{split}2017" / name, size)
        write_split(root, f"{split}2017", coco_content(images))
    return root


def write_roboflow(root: Path, content=CONTENT, classes=CLASSES) -> Path:
    """``train/ valid/ test/``, each with ``_annotations.coco.json``."""
    for split, images in content.items():
        folder = root / FOLDERS[split]
        for name, size, _ in images:
            save_image(folder / name, size)
        (folder / "_annotations.coco.json").write_text(json.dumps(coco_content(images, classes)))
    return root


def write_yolo(
    root: Path, *, split_first: bool = False, names="list", content=CONTENT, classes=CLASSES, **keys
) -> Path:
    """``data.yaml``, ``images/<split>/`` and ``labels/<split>/``, or ``<split>/images/`` and ``<split>/labels/``.

    ``keys`` replace what stands in the ``data.yaml``; None takes a key out.
    """
    described = {"path": ".", "nc": len(classes)}
    described["names"] = list(classes) if names == "list" else dict(enumerate(classes))
    for split, images in content.items():
        parts = (FOLDERS[split], "{}") if split_first else ("{}", split)
        described[split] = "/".join(parts).format("images")
        labels = root / "/".join(parts).format("labels")
        labels.mkdir(parents=True)
        for name, size, objects in images:
            save_image(root / described[split] / name, size)
            rows = [yolo_row(label, box, size) for label, box in objects]
            if rows or name != "c.png":  # c.png has no label file at all
                (labels / name).with_suffix(".txt").write_text("\n".join(rows) + "\n")
    described = {k: v for k, v in (described | keys).items() if v is not None}
    (root / "data.yaml").write_text(yaml.safe_dump(described))
    return root


def yolo_row(label: int, box, size: tuple[int, int]) -> str:
    (x, y, w, h), (width, height) = box, size
    numbers = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
    return " ".join([str(label), *(f"{v:.8f}" for v in numbers)])


def write_bare_coco(root: Path) -> Path:
    """``images/`` and ``labels_<split>.json`` beside it."""
    for split, images in CONTENT.items():
        for name, size, _ in images:
            save_image(root / "images" / name, size)
        (root / f"labels_{split}.json").write_text(json.dumps(coco_content(images)))
    return root


def write_voc(root: Path, *, lists: bool = True) -> Path:
    """``Annotations/``, ``JPEGImages/`` and ``ImageSets/Main/``, or a folder a split with images and XML files."""
    for split, images in CONTENT.items():
        for name, (width, height), objects in images:
            stem = Path(name).stem
            image = root / ("JPEGImages" if lists else FOLDERS[split]) / name
            save_image(image, (width, height))
            size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            items = "".join(
                f"<object><name>{CLASSES[label]}</name><difficult>0</difficult><bndbox><xmin>{x}</xmin>"
                f"<ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                for label, (x, y, w, h) in objects
            )
            text = f"<annotation><filename>{name}</filename>{size}{items}</annotation>"
            target = root / "Annotations" / f"{stem}.xml" if lists else image.with_suffix(".xml")
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
        if lists:
            (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
            names = "".join(f"{Path(name).stem}\n" for name, _, _ in images)
            (root / "ImageSets/Main" / f"{split}.txt").write_text(names)
    return root


def write_labelme(root: Path) -> Path:
    """A JSON file beside every image: rectangles of two corners, and polygons for class 1."""
    for split, images in CONTENT.items():
        for name, (width, height), objects in images:
            save_image(root / split / name, (width, height))
            shapes = []
            for label, (x, y, w, h) in objects:
                points = [[x + w, y + h], [x, y]] if label != 1 else [[x, y], [x + w, y], [x + w / 2, y + h]]
                shapes.append({"label": CLASSES[label], "points": points, "group_id": None, "flags": {},
                               "shape_type": "polygon" if label == 1 else "rectangle"})  # fmt: skip
            content = {"version": "5.2.1", "shapes": shapes, "imagePath": name, "imageData": None,
                       "imageHeight": height, "imageWidth": width}  # fmt: skip
            (root / split / name).with_suffix(".json").write_text(json.dumps(content))
    return root


def write_cvat(root: Path) -> Path:
    """``annotations.xml`` with subsets and ``images/<subset>/``; class 1 as polygons."""
    elements = []
    for split, images in CONTENT.items():
        for number, (name, (width, height), objects) in enumerate(images):
            save_image(root / "images" / split / name, (width, height))
            shapes = ""
            for label, (x, y, w, h) in objects:
                label_of = f'label="{CLASSES[label]}" source="manual" occluded="0"'
                if label == 1:
                    shapes += f'<polygon {label_of} points="{x},{y};{x + w},{y};{x},{y + h}.00"></polygon>'
                else:
                    shapes += f'<box {label_of} xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}" z_order="0"></box>'
            opened = f'<image id="{number}" name="{name}" subset="{split}" width="{width}" height="{height}">'
            elements.append(f"{opened}{shapes}</image>")
    text = f"<?xml version='1.0' encoding='utf-8'?><annotations><version>1.1</version>{''.join(elements)}</annotations>"
    (root / "annotations.xml").write_text(text)
    return root


def write_csv(root: Path, *, header: bool = True, folders: bool = False) -> Path:
    """``<split>.csv`` and ``images/``, or ``<split>/_annotations.csv`` beside the images."""
    root.mkdir()
    for split, images in CONTENT.items():
        folder = FOLDERS[split] if folders else "images"
        rows = ["filename,width,height,class,xmin,ymin,xmax,ymax"] if header else []
        for name, (width, height), objects in images:
            save_image(root / folder / name, (width, height))
            for label, (x, y, w, h) in objects:
                box = f"{x},{y},{x + w},{y + h}"
                rows.append(
                    f"{name},{width},{height},{CLASSES[label]},{box}" if header
                    else f"{folder}/{name},{box},{CLASSES[label]}"
                )  # fmt: skip
            if not objects:
                rows.append(f"{name},{width},{height},,,,," if header else f"{folder}/{name},,,,,")
        (root / (f"{folder}/_annotations.csv" if folders else f"{split}.csv")).write_text("\n".join(rows) + "\n")
    return root
