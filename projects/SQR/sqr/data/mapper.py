"""Dataset dict to model input."""

from __future__ import annotations

import copy

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T

from .images import read_image


class DetectionMapper(DatasetMapper):
    """Detectron2's ``DatasetMapper`` for boxes only, with :func:`sqr.data.images.read_image` as its decoder."""

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Returns:
            The dict with ``image``, ``(3, height, width)`` uint8, and in training ``instances`` for ``annotations``;
            boxes are clipped to the image, empty ones and crowds left out.

        Raises:
            UnreadableImageError: the image cannot be read or is not of the annotated size.
        """
        sample = copy.deepcopy(dataset_dict)
        size = (sample["width"], sample["height"]) if "width" in sample and "height" in sample else None
        pixels = read_image(sample["file_name"], image_format=self.image_format, annotated_size=size)
        sample.setdefault("height", pixels.shape[0])
        sample.setdefault("width", pixels.shape[1])
        augmented = T.AugInput(pixels)
        transforms = self.augmentations(augmented)
        sample["image"] = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if not self.is_train:
            sample.pop("annotations", None)
        elif "annotations" in sample:
            self._transform_annotations(sample, transforms, augmented.image.shape[:2])
        return sample
