"""A learned table of queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QueryTable(nn.Module):
    """Learned vectors of ``num_groups`` groups of queries: all of them in training, the first group in evaluation.

    Several groups are Group DETR (Chen et al., "Group DETR: Fast DETR Training with Group-Wise One-to-Many Assignment",
    ICCV 2023): each is matched on its own and none sees another, so an object is learned from ``num_groups`` queries,
    and inference costs nothing more. They compose with any recollection plan.

    Args:
        num_queries: ``Q`` of a group.
        dim: length of a vector.
        num_groups: ``G0``; 1 is an ordinary table.
    """

    def __init__(self, *, num_queries: int, dim: int, num_groups: int = 1):
        super().__init__()
        if num_groups < 1:
            raise ValueError(f"num_groups={num_groups}: a detector needs at least one group of queries")
        self.num_groups = num_groups
        self.weight = nn.Parameter(torch.empty(num_groups * num_queries, dim))  # rows: group after group
        nn.init.normal_(self.weight)

    def forward(self) -> Tensor:
        """``(G, Q, dim)`` with ``G = G0`` in training and 1 in evaluation."""
        groups = self.weight.unflatten(0, (self.num_groups, -1))
        return groups if self.training else groups[:1]
