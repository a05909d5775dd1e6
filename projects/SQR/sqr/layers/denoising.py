"""Denoising queries: noisy copies of the objects, whose assignment is known without matching."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh
from ..structures import DenoisingSet, QueryState
from ..targets import Targets


class ContrastiveDenoising(nn.Module):
    """Contrastive denoising (Zhang et al., "DINO", ICLR 2023, section 3.3).

    A group contains two noisy copies of every object: a positive one, to be denoised, and a negative one with more
    noise, to be classified as no object. Images with fewer objects than the batch's maximum are padded with empty
    queries (zero content, the image's central half as reference), trained as no object, as published.

    Args:
        num_classes: ``K``.
        dim: ``C``.
        num_queries: approximate number of pairs of queries per image: there are ``num_queries // most`` groups, at
            least 1, where ``most`` is the largest number of objects of an image of the batch.
        label_noise: twice the probability of replacing an object's label by a random one.
        box_noise: 1 moves a positive's corners by up to half its size, a negative's by half to all of its size.
        num_labels: rows of the label table; ``num_classes + 1`` (the official code, which never reads the last one)
            when None. detrex has ``num_classes``.
        sees_queries: let denoising queries attend to the matched queries of their group, but not the reverse, as
            published; False isolates them, which costs less.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        dim: int = 256,
        num_queries: int = 100,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
        num_labels: int | None = None,
        sees_queries: bool = True,
    ):
        super().__init__()
        self.num_classes, self.num_queries = num_classes, num_queries
        self.label_noise, self.box_noise = label_noise, box_noise
        self.sees_queries = sees_queries
        self.label_embed = nn.Embedding(num_classes + 1 if num_labels is None else num_labels, dim)

    def forward(self, targets: Targets) -> DenoisingSet:
        """The denoising queries of a batch: ``G`` groups of ``2 * most`` queries, the positives first."""
        most = max(1, *targets.counts)
        groups = max(1, self.num_queries // most)
        labels, boxes = self._noisy(targets, groups)
        place = torch.cat([torch.arange(n) for n in targets.counts]).to(labels.device, non_blocking=True)
        at = targets.image_index, slice(None), slice(None), place
        shape = (len(targets.counts), groups, 2, most)
        embedded = self.label_embed(labels)
        content = embedded.new_zeros(*shape, embedded.shape[-1])
        content[at] = embedded.permute(2, 0, 1, 3)
        reference = boxes.new_full((*shape, 4), 0.5)
        reference[at] = inverse_sigmoid(boxes, 1e-3).sigmoid().permute(2, 0, 1, 3)
        state = QueryState(content.flatten(2, 3), reference.flatten(2, 3))
        return DenoisingSet(state, assignment=place, sees_queries=self.sees_queries)

    def _noisy(self, targets: Targets, groups: int) -> tuple[Tensor, Tensor]:
        """Labels ``(G, 2, T)`` and boxes ``(G, 2, T, 4)``, in the corners of cxcywh, with noise."""
        shape = (groups, 2, len(targets))
        device = targets.boxes.device
        flip = torch.rand(shape, device=device) < self.label_noise / 2
        labels = torch.where(flip, torch.randint(self.num_classes, shape, device=device), targets.labels)
        sign = torch.randint(0, 2, (*shape, 4), device=device, dtype=torch.float32) * 2 - 1
        size = torch.rand((*shape, 4), device=device)
        size[:, 1] += 1  # negatives
        half = targets.boxes[:, 2:].repeat(1, 2) / 2
        corners = cxcywh_to_xyxy(targets.boxes) + size * sign * half * self.box_noise
        return labels, xyxy_to_cxcywh(corners.clamp(0, 1))
