"""Images of every kind reach training as 8-bit colour, the right way up; broken ones are one line."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.structures import BoxMode
from PIL import Image, ImageOps

import dataset_builders as build
from sqr.data import DetectionMapper, UnreadableImageError, inference_augmentations, read_image, training_augmentations

SIZE = (40, 24)
TURNED = (5, 6, 7, 8)


@pytest.fixture
def colour():
    return Image.fromarray(build.pixels(SIZE))


def with_exif(image, orientation, path):
    exif = Image.Exif()
    exif[274] = orientation
    image.save(path, exif=exif)
    return str(path)


def mapper(training=False, **options):
    if training:
        augmentations = training_augmentations(min_size=(24, 32), max_size=64, crop_prob=0.5, color_jitter=0.2)
    else:
        augmentations = inference_augmentations(min_size=24, max_size=64)
    return DetectionMapper(is_train=training, augmentations=augmentations, image_format="RGB", **options)


def test_colour_is_as_detectron2_reads_it(colour, tmp_path):
    from detectron2.data.detection_utils import read_image as detectron2_read_image

    for name in ("a.png", "a.jpg", "a.bmp"):
        colour.save(tmp_path / name)
        path = str(tmp_path / name)
        for image_format in ("RGB", "BGR"):
            pixels = read_image(path, image_format=image_format)
            assert pixels.dtype == np.uint8
            np.testing.assert_array_equal(pixels, detectron2_read_image(path, image_format))


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_is_repeated(colour, mode, tmp_path):
    colour.convert(mode).save(tmp_path / "a.png")
    pixels = read_image(str(tmp_path / "a.png"))
    grey = np.asarray(colour.convert(mode).convert("L"))
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


def test_transparency_is_left_out(colour, tmp_path):
    image = colour.copy()
    image.putalpha(Image.new("L", SIZE, 10))
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), np.asarray(colour))


@pytest.mark.parametrize("transparent", [False, True])
def test_palettes_are_converted(colour, transparent, tmp_path, recwarn):
    image = colour.quantize(8)
    image.save(tmp_path / "a.png", **({"transparency": bytes([0, 128, *[255] * 6])} if transparent else {}))
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), np.asarray(image.convert("RGB")))
    assert not [w for w in recwarn if "Transparency" in str(w.message)]


def test_of_16_bits_the_upper_8_are_kept(tmp_path):
    values = np.arange(40 * 24, dtype=np.uint16).reshape(24, 40) * 68
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = read_image(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "b.tif")
    np.testing.assert_array_equal(read_image(str(tmp_path / "b.tif")), pixels)


def test_print_colours_are_converted(colour, tmp_path):
    colour.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(str(tmp_path / "a.jpg")).astype(int) - np.asarray(colour)).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(colour, orientation, tmp_path):
    path = with_exif(colour, orientation, tmp_path / "a.png")
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert expected.shape[:2] == (SIZE if orientation in TURNED else SIZE[::-1])
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(read_image(path, annotated_size=expected.shape[1::-1]), expected)


@pytest.mark.parametrize("orientation", TURNED)
def test_annotations_made_on_the_stored_pixels_keep_them(colour, orientation, tmp_path):
    path = with_exif(colour, orientation, tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path, annotated_size=SIZE), np.asarray(colour))


def broken_files(tmp_path):
    Image.fromarray(build.pixels((200, 200))).save(tmp_path / "whole.jpg", quality=95)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save(tmp_path / "whole.png")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "float.tif")
    for name in ("whole.jpg", "whole.png"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"truncated.{name[-3:]}").write_bytes(data[: len(data) // 2])
    damaged = bytearray((tmp_path / "whole.png").read_bytes())
    damaged[41:49] = bytes(8)  # the head of the compressed data
    (tmp_path / "damaged.png").write_bytes(damaged)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    return ["truncated.jpg", "truncated.png", "damaged.png", "empty.jpg", "text.jpg", "float.tif", "absent.jpg"]


def test_broken_images_are_one_line_that_names_the_file(tmp_path):
    for name in broken_files(tmp_path):
        with pytest.raises(UnreadableImageError) as error:
            read_image(str(tmp_path / name))
        assert str(error.value).startswith(f"cannot read the image {tmp_path / name}: ")
        assert "\n" not in str(error.value) and error.value.exit_code == 1


def test_another_size_names_both(colour, tmp_path):
    colour.save(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match=r"a.png is 40x24, its annotations are for 41x24: fix them"):
        read_image(str(tmp_path / "a.png"), annotated_size=(41, 24))


def sample(path, **values):
    annotations = [
        {"bbox": [2.0, 3.0, 20.0, 10.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 0},
        {"bbox": [30.0, 3.0, 20.0, 10.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0},
        {"bbox": [5.0, 5.0, 9.0, 0.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2, "iscrowd": 0},
        {"bbox": [1.0, 1.0, 9.0, 9.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2, "iscrowd": 1},
    ]
    return {"file_name": str(path), "image_id": 1, "width": 40, "height": 24, "annotations": annotations, **values}


@pytest.mark.parametrize("training", [True, False])
def test_the_mapper_gives_what_detectron2s_gives(colour, training, tmp_path):
    from sqr.engine.rng import seeded_sample

    colour.save(tmp_path / "a.png")
    ours, item = mapper(training), sample(tmp_path / "a.png")
    theirs = DatasetMapper(is_train=training, augmentations=ours.augmentations.augs, image_format="RGB")
    before = copy.deepcopy(item)
    for position in range(4):
        with seeded_sample(3, position):
            a = ours(item)
        with seeded_sample(3, position):
            b = theirs(copy.deepcopy(item))
        assert a.keys() == b.keys() and torch.equal(a["image"], b["image"])
        if training:
            assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
            assert a["instances"].gt_classes.tolist() == b["instances"].gt_classes.tolist()
            assert 2 not in a["instances"].gt_classes  # neither the empty box nor the crowd
    assert item == before


def test_a_sample_without_a_size_gets_the_images(colour, tmp_path):
    colour.save(tmp_path / "a.png")
    mapped = mapper()({"file_name": str(tmp_path / "a.png")})
    assert (mapped["width"], mapped["height"]) == SIZE


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_in_evaluation_is_one_line(workers, tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    loader = build_detection_test_loader([sample(tmp_path / "a.png")], mapper=mapper(), num_workers=workers)
    with pytest.raises(UnreadableImageError) as error:
        next(iter(loader))
    expected = f"cannot read the image {tmp_path}/a.png: it is no image of a known format"
    assert str(error.value).startswith(expected) and "Traceback" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_in_training_is_one_line(workers, tmp_path):
    from sqr.engine import build_train_loader
    from sqr.errors import UserError

    (tmp_path / "a.png").write_bytes(b"nothing")
    loader = build_train_loader(
        [sample(tmp_path / "a.png")], mapper=mapper(True), total_batch_size=1, num_workers=workers
    )
    with pytest.raises(UserError, match=rf"^cannot read the image {tmp_path}/a.png: it is no image") as error:
        next(iter(loader))
    assert "\n" not in str(error.value)
