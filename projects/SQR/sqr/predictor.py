"""Simple inference on images: ``sqr.Predictor``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Instances
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from .checkpoint.files import stored_config
from .config import default_device, load_run_config
from .data.image_inputs import COLORS, ImageLike, as_pixels, is_single_image
from .data.layouts import CocoSplit
from .data.prepared import prepare_split
from .engine import load_model
from .errors import as_user_error
from .postprocessing import best_class_per_query
from .runs import run_files
from .structures import ImagePredictions
from .visualization.drawing import draw_detections

SCORE_THRESHOLD = 0.3
"""Of what people see, where they give none."""


class Predictor:
    """A detector for images in common formats.

    Images are resized and converted by the config's test mapper. Each query that reaches the threshold is one
    detection, of its best class, with its box clipped to the image; ``as_evaluated=True`` returns the
    pairs of query and class that ``train_net.py --eval-only`` evaluates. An image is one of:

    - a path;
    - a PIL image of any mode, without applying EXIF's orientation (which is applied to paths);
    - a numpy array ``(height, width, 3)``, with a fourth channel (transparency, dropped) or grey ``(height, width)``,
      uint8 or uint16, BGR as in OpenCV and Detectron2's ``DefaultPredictor``;
    - a tensor ``(3, height, width)``, uint8, RGB as in ``torchvision.io``.

    Args:
        checkpoint: of a training (``output/mine/model_best.pth``, possibly followed by ``@ema``): the file contains the
            config, which is read as data, and the class names. Other models are given by ``model``, ``mapper`` and
            ``class_names``, or by :meth:`from_run`, :meth:`from_config` and :meth:`from_zoo`.
        model: a trained detector; switched to evaluation mode.
        mapper: the test mapper, a Detectron2 ``DatasetMapper`` or one with its ``augmentations`` and ``image_format``.
        class_names: ``K`` names.
        overrides: of a checkpoint's config, such as ``data.min_size_test=640``.
        device: of a checkpoint's model; the first GPU if there is one when None.
        score_threshold: leave out detections with a lower score; None is 0.3, or 0 with ``as_evaluated``.
        batch_size: images processed together.
        as_evaluated: return what an evaluation uses: the model's selection of pairs of query and class, so that a
            query can yield several detections, with unclipped boxes.

    Raises:
        UserError: the checkpoint cannot be read or contains no config.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike | None = None,
        *,
        model: nn.Module | None = None,
        mapper: object = None,
        class_names: Sequence[str] = (),
        overrides: Sequence[str] = (),
        device: str | None = None,
        score_threshold: float | None = None,
        batch_size: int = 1,
        as_evaluated: bool = False,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if (checkpoint is None) == (model is None):
            raise TypeError("Predictor takes a checkpoint, or a model with its mapper and class_names")
        if checkpoint is not None:
            checkpoint = os.fspath(checkpoint)
            model, mapper, class_names = _load(stored_config(checkpoint), checkpoint, overrides, device)
        for name in ("augmentations", "image_format"):
            if not hasattr(mapper, name):
                raise ValueError(f"the test mapper, a {type(mapper).__name__}, has no {name}; use a DatasetMapper")
        self.model = model.eval()
        self.mapper = mapper
        self.class_names = tuple(class_names)
        if score_threshold is None:
            score_threshold = 0.0 if as_evaluated else SCORE_THRESHOLD
        self.score_threshold = score_threshold
        self.batch_size = batch_size
        self.as_evaluated = as_evaluated

    @classmethod
    def from_config(
        cls,
        config: str | os.PathLike | DictConfig,
        checkpoint: str | os.PathLike,
        *,
        overrides: Sequence[str] = (),
        device: str | None = None,
        score_threshold: float | None = None,
        batch_size: int = 1,
        as_evaluated: bool = False,
    ) -> Predictor:
        """The model of a config with the weights of a checkpoint.

        Args:
            config: a file, a name of the model zoo, or a loaded config.
            checkpoint: as ``train.init_checkpoint``: path, URL, ``zoo://NAME``, ``zoo``.
            overrides: ``key=value`` of the config, such as ``data.min_size_test=640``.
            device: the first GPU if there is one when None.
            score_threshold, batch_size, as_evaluated: see the class.

        Raises:
            UserError: no such config or checkpoint, weights that do not fit, or a bad override.
        """
        model, mapper, names = _load(config, checkpoint, overrides, device)
        return cls(
            model=model,
            mapper=mapper,
            class_names=names,
            score_threshold=score_threshold,
            batch_size=batch_size,
            as_evaluated=as_evaluated,
        )

    @classmethod
    def from_run(
        cls,
        output_dir: str | os.PathLike,
        *,
        checkpoint: str | None = None,
        overrides: Sequence[str] = (),
        device: str | None = None,
        score_threshold: float | None = None,
        batch_size: int = 1,
        as_evaluated: bool = False,
    ) -> Predictor:
        """The model of a training's output folder.

        Args:
            output_dir: the run's ``train.output_dir``.
            checkpoint: a file in it (``model_best.pth``, ``model_final.pth@ema``); the last checkpoint when None.
            overrides, device, score_threshold, batch_size, as_evaluated: as :meth:`from_config`.

        Raises:
            UserError: no config or no checkpoint there, or as :meth:`from_config`.
        """
        config, path = run_files(output_dir, checkpoint)
        return cls.from_config(
            config,
            path,
            overrides=overrides,
            device=device,
            score_threshold=score_threshold,
            batch_size=batch_size,
            as_evaluated=as_evaluated,
        )

    @classmethod
    def from_zoo(
        cls,
        name: str,
        *,
        overrides: Sequence[str] = (),
        device: str | None = None,
        score_threshold: float | None = None,
        batch_size: int = 1,
        as_evaluated: bool = False,
    ) -> Predictor:
        """A trained model of the zoo by its config's name, such as ``quick/sqr_deformable_detr_shapes``.

        Raises:
            UserError: no such config, or no checkpoint of it; the message lists the available ones.
        """
        return cls.from_config(
            name,
            "zoo",
            overrides=overrides,
            device=device,
            score_threshold=score_threshold,
            batch_size=batch_size,
            as_evaluated=as_evaluated,
        )

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike] | Tensor,
        *,
        color: str | None = None,
        score_threshold: float | None = None,
    ) -> Instances | list[Instances]:
        """Detect.

        Args:
            images: one image, or a batch: a sequence of images, an array ``(B, height, width, 3)`` or a tensor
                ``(B, 3, height, width)``.
            color: ``"BGR"`` or ``"RGB"``, the channel order of arrays and tensors if it is not the default.
            score_threshold: instead of the predictor's.

        Returns:
            Instances in pixels of the given image, sorted by score, on the model's device: ``pred_boxes``, ``scores``,
            ``pred_classes``, ``pred_class_names`` and ``query_ids``. A list of them for a batch.

        Raises:
            OSError: a path that does not exist or is not an image.
            TypeError, ValueError: something that is not an image.
        """
        threshold = self.score_threshold if score_threshold is None else score_threshold

        def detect(inputs: list[dict]) -> list[Instances]:
            if self.as_evaluated:
                found = [output["instances"] for output in self.model(inputs)]
            else:
                select = best_class_per_query(getattr(self.model, "postprocessor", None))
                stages = self.model.forward_stages(inputs)
                found = [select(o.scores[-1], o.boxes[-1], o.image_size) for o in stages]
            for instances in found:
                labels = instances.pred_classes.tolist()
                instances.pred_class_names = ClassNames(self.class_names[label] for label in labels)
            return [instances[instances.scores >= threshold] for instances in found]

        return self._run(detect, images, color)

    def draw(self, image: ImageLike, instances: Instances | None = None, *, color: str | None = None) -> Image.Image:
        """Draw detections on an image, with one colour per class in all pictures.

        Args:
            image: one image.
            instances: in pixels of the image; the predictor's detections when None.
            color: see :meth:`__call__`.

        Returns:
            A picture to show or ``save``. Small images are enlarged, see :func:`sqr.visualization.draw_detections`.
        """
        if instances is None:
            instances = self(image, color=color)
        return Image.fromarray(draw_detections(as_pixels(image, "RGB", color), instances, self.class_names))

    def stages(
        self, images: ImageLike | Sequence[ImageLike] | Tensor, *, color: str | None = None
    ) -> ImagePredictions | list[ImagePredictions]:
        """The predictions of every stage: scores ``(S, Q, K)`` and boxes ``(S, Q, 4)`` in pixels of the given image.

        Arguments and errors as :meth:`__call__`; a list for a batch.
        """
        return self._run(self.model.forward_stages, images, color)

    @torch.no_grad()
    def _run(self, function, images, color: str | None):
        if color is not None and color not in COLORS:
            raise ValueError(f"color={color!r}: must be one of {', '.join(COLORS)}")
        single = is_single_image(images)
        items = [images] if single else images
        results: list = []
        for start in range(0, len(items), self.batch_size):
            part = items[start : start + self.batch_size]
            results += function([self._model_input(image, color) for image in part])
        return results[0] if single else results

    def _model_input(self, image: ImageLike, color: str | None) -> dict:
        """Detectron2's input dict of one image, by the test mapper."""
        if isinstance(image, (str, os.PathLike)):
            if not Path(image).is_file():
                raise FileNotFoundError(f"no such image: {os.fspath(image)}")
            return self.mapper({"file_name": os.fspath(image)})
        pixels = as_pixels(image, self.mapper.image_format, color)
        height, width = pixels.shape[:2]
        augmented = T.AugInput(pixels)
        self.mapper.augmentations(augmented)
        tensor = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}


def _load(
    config: str | os.PathLike | DictConfig, checkpoint: str | os.PathLike, overrides: Sequence[str], device: str | None
) -> tuple[nn.Module, object, tuple[str, ...]]:
    """The model with its weights, the test mapper and the class names."""
    with as_user_error(ValueError, OSError):
        cfg = load_run_config(
            config if isinstance(config, DictConfig) else os.fspath(config),
            overrides,
            needs_data=False,
            device=device or default_device(),
            init_checkpoint=os.fspath(checkpoint),
        )
        names = class_names_of(cfg)
    return load_model(cfg), instantiate(cfg.dataloader.test.mapper), names


class ClassNames(list):
    """The name of each detection's class, indexed like the other fields of Detectron2's ``Instances``."""

    def __getitem__(self, item: int | slice | Tensor):
        if isinstance(item, (int, slice)):
            found = super().__getitem__(item)
            return found if isinstance(item, int) else ClassNames(found)
        chosen = torch.as_tensor(item)
        rows = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen
        return ClassNames(super(ClassNames, self).__getitem__(row) for row in rows.tolist())


def class_names_of(cfg: DictConfig) -> tuple[str, ...]:
    """The names of a settled config's classes.

    They are ``data.class_names`` of a saved run, or those of the config's dataset, or numbers if the dataset is not on
    this machine.
    """
    data = cfg.get("data")
    if data is None:
        return tuple(map(str, range(cfg.model.num_classes)))
    if data.get("class_names"):
        return tuple(data.class_names)
    names = _names_of_files(data)
    if names is None and data.val.name:
        names = getattr(MetadataCatalog.get(data.val.name), "thing_classes", None)
    if names is not None and len(names) == data.num_classes:
        return tuple(names)
    return tuple(map(str, range(data.num_classes)))


def _names_of_files(data: DictConfig) -> tuple[str, ...] | None:
    for split in (data.val, data.train):
        if split.annotations and Path(split.annotations).is_file():
            return tuple(name for _, name in prepare_split(CocoSplit(split.annotations, ())).categories)
    return None
