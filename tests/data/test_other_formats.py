"""Pascal VOC, LabelMe, CVAT and CSV: what their files hold besides plain boxes, and files that are none."""

import json
import re

import pytest

import dataset_builders as build
from sqr.data import find_dataset, get_detection_dataset
from sqr.data.check import inspect_dataset
from sqr.data.sidecars import read_labelme, read_voc
from sqr.data.xml_files import parse_xml

BOMB = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "{many}"><!ENTITY b "{more}">]><annotation>&b;</annotation>"""


def voc(*objects, extra=""):
    return f"<annotation><filename>a.png</filename>{extra}{''.join(objects)}</annotation>"


def voc_object(name="cat", box=(1, 2, 11, 22), extra=""):
    keys = ("xmin", "ymin", "xmax", "ymax")
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, box, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


@pytest.fixture
def folder(tmp_path):
    """Two splits of one image each; ``folder(name, text)`` writes an annotation file into both."""

    def write(name, text):
        for split in ("train", "val"):
            build.save_image(tmp_path / split / "a.png", (64, 48))
            (tmp_path / split / name).write_text(text)
        return tmp_path

    return write


def boxes(root):
    (image,) = get_detection_dataset(root=str(root), split="train")
    return [(a["bbox"], a["iscrowd"]) for a in image["annotations"]]


@pytest.mark.parametrize("text", [
    BOMB.format(many="x" * 100, more="&a;" * 100),
    '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><annotation>&a;</annotation>',
    '<!DOCTYPE x [<!ENTITY % p "x"> %p;]><annotation/>',
])  # fmt: skip
def test_entities_are_refused(text, folder, tmp_path):
    path = tmp_path / "bomb.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match="declares the entity"):
        parse_xml(str(path))


def test_a_bomb_among_good_files_is_named_and_left_out(folder):
    root = folder("a.xml", voc(voc_object()))
    build.save_image(root / "train/b.png", (64, 48))
    (root / "train/b.xml").write_text(BOMB.format(many="x", more="&a;"))
    with pytest.raises(ValueError, match=r"train/b.xml: it declares the entity 'a'"):
        get_detection_dataset(root=str(root), split="train")
    kinds = {d.kind for d in inspect_dataset(find_dataset(root)).defects}
    assert {"unreadable_annotations"} <= kinds


def test_difficult_objects_are_crowds(folder):
    objects = [voc_object(extra=f"<difficult>{d}</difficult>") for d in (0, 1)]
    assert boxes(folder("a.xml", voc(*objects))) == [([1, 2, 10, 20], 0), ([1, 2, 10, 20], 1)]


def test_pixels_of_the_voc_challenges_count_from_one(folder):
    source = "<source><database>The VOC2007 Database</database></source>"
    assert boxes(folder("a.xml", voc(voc_object(), extra=source))) == [([0, 1, 11, 21], 0)]


def test_sizes_that_are_not_stated_are_those_of_the_files(folder):
    size = "<size><width>0</width><height>0</height></size>"
    root = folder("a.xml", voc(voc_object(), extra=size))
    (image,) = get_detection_dataset(root=str(root), split="train")
    assert (image["width"], image["height"]) == (64, 48)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("<object><name>cat</name></object>", "box that is not four finite numbers"),
        (voc_object(box=("a", 2, 3, 4)), "box that is not four finite numbers"),
        (voc_object(name=""), "an object of the class ''"),
        (voc_object(extra="<difficult>x</difficult>"), "'difficult' is 'x'"),
        ("<object", "not valid XML"),
    ],
)
def test_a_broken_voc_object_is_named(item, message, folder):
    root = folder("a.xml", voc(voc_object(), item))
    with pytest.raises(ValueError, match=message):
        get_detection_dataset(root=str(root), split="train")
    assert inspect_dataset(find_dataset(root)).failing


def labelme(shapes):
    return json.dumps({"shapes": shapes, "imagePath": "..\\x\\a.png", "imageHeight": 48, "imageWidth": 64})


def test_circles_and_polygons_of_labelme(folder):
    shapes = [
        {"label": "cat", "points": [[20, 20], [23, 24]], "shape_type": "circle"},
        {"label": "cat", "points": [[1, 2], [9, 4], [5, 12]], "shape_type": "polygon"},
    ]
    assert boxes(folder("a.json", labelme(shapes))) == [([15, 15, 10, 10], 0), ([1, 2, 8, 10], 0)]


@pytest.mark.parametrize("shape", [{}, {"label": "cat", "points": []}, {"points": [[1]]}, 7, {"points": [["x", 1]]}])
def test_a_broken_shape_is_named(shape, folder):
    root = folder("a.json", labelme([{"label": "cat", "points": [[1, 1], [5, 5]]}, shape]))
    with pytest.raises(ValueError, match=r"shapes\[1\] has no points"):
        get_detection_dataset(root=str(root), split="train")


@pytest.mark.parametrize("angle", ["90.00", "30", ""])
def test_boxes_of_cvat_that_are_turned(angle, tmp_path):
    """The upright box around each is taken."""
    root = build.write_cvat(tmp_path / "set")
    path = root / "annotations.xml"
    turned = f'<box label="cat" xtl="5" ytl="15" xbr="35" ybr="25" rotation="{angle}"/>'
    path.write_text(re.sub(r'<box label="cat".*?></box>', turned, path.read_text(), count=1))
    if not angle:
        with pytest.raises(ValueError, match="box that is not four finite numbers"):
            get_detection_dataset(root=str(root), split="train")
        return
    found = [a["bbox"] for image in get_detection_dataset(root=str(root), split="train") for a in image["annotations"]]
    width, height = {"90.00": (10, 30), "30": (30.981, 23.660)}[angle]
    assert found[0] == pytest.approx([20 - width / 2, 20 - height / 2, width, height], abs=0.01)


@pytest.mark.parametrize("write", [build.write_cvat, build.write_csv])
@pytest.mark.parametrize("name", ["D:\\\\photos\\\\a.png", "A.PNG", "/home/someone/a.png"])
def test_images_of_other_machines_and_spellings_are_found(write, name, tmp_path):
    root = write(tmp_path / "set")
    for path in (*root.glob("*.xml"), *root.glob("*.csv")):
        path.write_text(re.sub(r"\ba\.png", name, path.read_text()))
    images = get_detection_dataset(root=str(root), split="train")
    assert sum(len(image["annotations"]) for image in images) == 3


def test_tracks_of_a_video_are_refused(tmp_path):
    build.save_image(tmp_path / "images/a.png", (64, 48))
    (tmp_path / "annotations.xml").write_text('<annotations><track id="0" label="cat"/></annotations>')
    with pytest.raises(ValueError, match="tracks of a video"):
        get_detection_dataset(root=str(tmp_path), split="train")


def test_a_table_with_widths_semicolons_and_a_short_row(tmp_path):
    for split in ("train", "val"):
        build.save_image(tmp_path / split / "a.png", (64, 48))
        (tmp_path / f"{split}.csv").write_text(f"path;label;x;y;w;h\n{split}/a.png;cat;1;2;10;20\n")
    assert boxes(tmp_path) == [([1, 2, 10, 20], 0)]
    with (tmp_path / "train.csv").open("a") as file:
        file.write("train/a.png;cat\n")
    with pytest.raises(ValueError, match="row 3 has only 2 columns"):
        get_detection_dataset(root=str(tmp_path), split="train")


def test_readers_alone(tmp_path):
    (tmp_path / "a.xml").write_text(voc(voc_object()))
    image, problems = read_voc(str(tmp_path / "a.xml"))
    assert not problems and image.objects[0].corners == ["1", "2", "11", "22"]
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match="no list 'shapes'"):
        read_labelme(str(tmp_path / "a.json"))
