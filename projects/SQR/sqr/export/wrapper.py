"""A detector as one function of tensors: what is exported."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boxes import cxcywh_to_xyxy
from ..meta_arch import QueryBasedDetector, padding_mask
from ..postprocessing import PerQueryPostprocessor, TopKPostprocessor, best_class_per_query

OUTPUTS = {
    "detections": ("scores", "labels", "boxes"),
    "pairs": ("scores", "labels", "boxes"),
    "raw": ("logits", "boxes"),
}


class DeployedDetector(nn.Module):
    """Normalisation, padding mask, detector and selection of detections, tensors in and tensors out.

    It runs the model's own modules in evaluation mode with the inference plan, so a model trained with recollection
    gives the same graph as the plain model.

    Args:
        model: a detector; its modules are shared, not copied, and switched to evaluation.
        outputs: ``"detections"`` returns the best class of every query, best first, boxes clipped to the image;
            ``"pairs"`` selects pairs of query and class as the model's postprocessor does for an evaluation; ``"raw"``
            returns every query as the last stage predicts it.

    Raises:
        ValueError: unknown ``outputs``, or a postprocessor that cannot be exported.
    """

    def __init__(self, *, model: QueryBasedDetector, outputs: str = "detections"):
        super().__init__()
        if outputs not in OUTPUTS:
            raise ValueError(f"outputs={outputs!r}: must be one of {', '.join(OUTPUTS)}")
        postprocessor = model.postprocessor
        if outputs == "pairs" and not isinstance(postprocessor, (TopKPostprocessor, PerQueryPostprocessor)):
            raise ValueError(
                f"a {type(postprocessor).__name__} cannot be exported; export with outputs='raw' and select outside"
            )
        self.model = model.eval()
        self.outputs = outputs
        self._postprocessor = best_class_per_query(postprocessor) if outputs == "detections" else postprocessor

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            images: ``(B, 3, height, width)`` float32 in 0 to 255, channels in the model's ``input_format``, each image
                in the top left corner; pixels beyond its size are ignored.
            image_sizes: ``(B, 2)`` int64 height and width of each image without its padding.

        Returns:
            ``"detections"`` and ``"pairs"``: scores ``(B, D)``, labels ``(B, D)`` int64 and boxes ``(B, D, 4)``
            absolute xyxy in pixels of the input image. ``"raw"``: logits ``(B, Q, K)`` and boxes ``(B, Q, 4)``
            normalised cxcywh, of the last stage.
        """
        model = self.model
        pixels, mask = self._preprocess(images, image_sizes)
        predictions = model.decode(model.encode_images(pixels, mask)).predictions
        last = predictions[-1]
        logits, boxes = last.logits[:, 0], last.boxes[:, 0].float()
        if self.outputs == "raw":
            return logits, boxes
        extent = image_sizes.flip(-1).repeat(1, 2)[:, None].to(boxes.dtype)  # (B, 1, 4): w, h, w, h
        return self._select(
            model.criterion.classification.probabilities(logits), cxcywh_to_xyxy(boxes) * extent, extent
        )

    def _preprocess(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`QueryBasedDetector.preprocess`: normalise, then zeros beyond each image, up to a divisible size."""
        height, width = images.shape[-2:]
        step = max(self.model.size_divisibility, 1)
        if step > 1:
            height, width = (height + step - 1) // step * step, (width + step - 1) // step * step
            images = F.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))
        mask = padding_mask(image_sizes, height, width)
        pixels = (images - self.model.pixel_mean) / self.model.pixel_std
        return pixels.masked_fill(mask[:, None], 0), mask

    def _select(self, scores: Tensor, boxes: Tensor, extent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The postprocessor's selection for a batch."""
        best, labels, boxes, _ = self._postprocessor.select(scores, boxes)
        if self._postprocessor.clip:
            boxes = torch.minimum(boxes.clamp(min=0), extent)
        return best, labels, boxes
