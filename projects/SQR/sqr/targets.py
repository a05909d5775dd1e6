"""The objects of a batch of images, for matcher and criterion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .boxes import xyxy_to_cxcywh
from .errors import UserError
from .structures import BatchTotals


@dataclass
class Targets:
    """All objects of a batch, ordered by image.

    Attributes:
        labels: ``(T,)`` int64 contiguous class indices, ``T`` objects in the batch.
        boxes: ``(T, 4)`` float32 normalised cxcywh.
        image_index: ``(T,)`` int64, the image of each object.
        counts: objects of each image, on the host.
        class_ids: the labels of each image as host tensors.
        image_ids: names of the images for messages.
        totals: numbers by which losses are normalised.
    """

    labels: Tensor
    boxes: Tensor
    image_index: Tensor
    counts: tuple[int, ...]
    class_ids: tuple[Tensor, ...]
    image_ids: tuple[object, ...]
    totals: BatchTotals

    @staticmethod
    def from_lists(
        labels: Sequence[Tensor],
        boxes: Sequence[Tensor],
        *,
        device: torch.device | str = "cpu",
        image_ids: Sequence[object] | None = None,
        totals: BatchTotals | None = None,
    ) -> Targets:
        """Collect per-image host tensors: labels ``(T_i,)`` and normalised cxcywh boxes ``(T_i, 4)``.

        ``totals`` are those of these images if None.
        """
        counts = tuple(len(x) for x in labels)
        index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
        class_ids = tuple(x.cpu().long() for x in labels)
        return Targets(
            labels=torch.cat(class_ids).to(device, non_blocking=True),
            boxes=torch.cat([x.float().reshape(-1, 4) for x in boxes]).to(device, non_blocking=True),
            image_index=index.to(device, non_blocking=True),
            counts=counts,
            class_ids=class_ids,
            image_ids=tuple(range(len(counts)) if image_ids is None else image_ids),
            totals=BatchTotals(sum(counts), len(counts)) if totals is None else totals,
        )

    @staticmethod
    def from_batched_inputs(
        batched_inputs: Sequence[dict],
        *,
        num_classes: int,
        device: torch.device,
        totals: BatchTotals | None = None,
    ) -> Targets:
        """From Detectron2's training inputs (``instances`` with ``gt_boxes`` absolute xyxy and ``gt_classes``).

        Raises:
            UserError: a class index outside ``[0, num_classes)``; the message names it and the image.
        """
        labels, boxes, image_ids = [], [], []
        for i, inputs in enumerate(batched_inputs):
            instances = inputs["instances"]
            image_id = inputs.get("image_id", inputs.get("file_name", i))
            classes = instances.gt_classes.cpu()
            wrong = classes[(classes < 0) | (classes >= num_classes)]
            if len(wrong):
                raise UserError(
                    f"image {image_id} has an object of class index {int(wrong[0])}, but the model has "
                    f"num_classes={num_classes} (indices 0 to {num_classes - 1}); set num_classes to the data's"
                )
            height, width = instances.image_size
            scale = torch.tensor([width, height, width, height], dtype=torch.float32)
            labels.append(classes)
            boxes.append(xyxy_to_cxcywh(instances.gt_boxes.tensor.cpu() / scale))
            image_ids.append(image_id)
        return Targets.from_lists(labels, boxes, device=device, image_ids=image_ids, totals=totals)

    def class_agnostic(self) -> Targets:
        """The same objects, all of class 0, for training a two-stage encoder's proposals."""
        zeros = tuple(torch.zeros_like(x) for x in self.class_ids)
        return replace(self, labels=torch.zeros_like(self.labels), class_ids=zeros)

    def repeated(self, times: int) -> Targets:
        """Every object ``times`` times, for matching with a one-to-many query set (Jia et al., CVPR 2023)."""
        index = torch.arange(len(self.labels)).split(self.counts)
        order = torch.cat([part.repeat(times) for part in index]).to(self.labels.device, non_blocking=True)
        return replace(
            self,
            labels=self.labels[order],
            boxes=self.boxes[order],
            image_index=self.image_index[order],
            counts=tuple(n * times for n in self.counts),
            class_ids=tuple(x.repeat(times) for x in self.class_ids),
            totals=self.totals._replace(objects=self.totals.objects * times),
        )

    def __len__(self) -> int:
        return len(self.labels)
