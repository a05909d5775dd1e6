"""An evaluator that rejects predictions that are not finite.

pycocotools treats a NaN IoU as a match, so a diverged model would get an average precision.
"""

from __future__ import annotations

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from torch import Tensor, nn

from ..errors import NonFiniteError
from ..finite import describe_not_finite, not_finite


class FiniteOutputs(DatasetEvaluator):
    """Raises an error if a score or a box is not finite; returns no results. To be combined with a real evaluator."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for own, output in zip(inputs, outputs, strict=True):
            found = output.get("instances")
            if not isinstance(found, Instances):
                continue
            image = own.get("image_id", own.get("file_name", "?"))
            for name in ("scores", "pred_boxes"):
                if found.has(name):
                    values = getattr(found, name)
                    require_finite(getattr(values, "tensor", values), name, image)


def require_finite(values: Tensor, name: str, image: object) -> None:
    """Raise NonFiniteError, naming the image, if a value is not finite."""
    bad = values.numel() - int(torch.isfinite(values).sum())
    if bad:
        raise NonFiniteError(
            f"image {image}: {bad} of {values.numel()} values of {name} are not finite; the model has diverged, "
            "or its weights are damaged"
        )


def require_finite_weights(model: nn.Module) -> None:
    """Raise NonFiniteError, naming tensors, if a weight or buffer of a model is not finite."""
    state = model.state_dict()
    bad = not_finite(state)
    if bad:
        raise NonFiniteError(f"the model has diverged: {describe_not_finite(bad, len(state))}")
