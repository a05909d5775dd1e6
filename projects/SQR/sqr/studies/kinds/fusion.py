"""Detections from several stages of one model: rules to compare with the last stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ...structures import ImagePredictions

RULES = ("scores", "boxes", "both", "union")


class FusedStages(nn.Module):
    """A detector whose only stage is a fusion of its last ones, query by query.

    Args:
        model: has ``forward_stages`` and ``postprocessor``.
        rule: ``"scores"`` takes the mean of the scores and the last stage's boxes, ``"boxes"`` the last stage's scores
            and the mean of the boxes, weighted by each stage's best score (a vote), ``"both"`` both means, and
            ``"union"`` the queries of all stages.
        stages: number of last stages to fuse.

    Raises:
        ValueError: an unknown rule, or fewer than two stages.
    """

    def __init__(self, model: nn.Module, *, rule: str, stages: int):
        super().__init__()
        if rule not in RULES:
            raise ValueError(f"fuse: rule={rule!r}; one of {', '.join(RULES)}")
        if stages < 2:
            raise ValueError(f"fuse: stages={stages}; at least 2")
        self.model, self.rule, self.stages = model, rule, stages
        self.postprocessor = model.postprocessor

    def forward_stages(self, batched_inputs: Sequence[dict]) -> list[ImagePredictions]:
        return [self._fused(outputs) for outputs in self.model.forward_stages(batched_inputs)]

    def _fused(self, outputs: ImagePredictions) -> ImagePredictions:
        scores, boxes = outputs.scores[-self.stages :], outputs.boxes[-self.stages :]
        if self.rule == "union":
            scores, boxes = scores.flatten(0, 1), boxes.flatten(0, 1)
        else:
            weight = scores.amax(-1, keepdim=True)  # (S, Q, 1)
            vote = (weight * boxes).sum(0) / weight.sum(0).clamp(min=torch.finfo(weight.dtype).tiny)
            scores, boxes = (
                scores[-1] if self.rule == "boxes" else scores.mean(0),
                boxes[-1] if self.rule == "scores" else vote,
            )
        return ImagePredictions(scores[None], boxes[None], outputs.image_size)
