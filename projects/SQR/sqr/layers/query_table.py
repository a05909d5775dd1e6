"""A learned table of queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QueryTable(nn.Module):
    """Learned vectors of queries: all of them in training, the first group's ``num_queries`` in evaluation.

    Several groups are Group DETR (Chen et al., "Group DETR: Fast DETR Training with Group-Wise One-to-Many Assignment",
    ICCV 2023): each group is matched separately and the groups are independent, so an object is learned by
    ``num_groups`` queries at no cost for inference. They compose with any recollection plan.

    Args:
        num_queries: ``Q`` of a group.
        dim: length of a vector.
        num_groups: ``G0``; 1 is an ordinary table.
        num_auxiliary: further queries of a group, for an auxiliary set (Jia et al., "DETRs with Hybrid Matching",
            CVPR 2023); see :meth:`sqr.structures.InitialQueries.split`.
    """

    def __init__(self, *, num_queries: int, dim: int, num_groups: int = 1, num_auxiliary: int = 0):
        super().__init__()
        if num_groups < 1:
            raise ValueError(f"num_groups={num_groups}: a detector needs at least one group of queries")
        self.num_groups, self.num_queries = num_groups, num_queries
        rows = num_groups * (num_queries + num_auxiliary)  # groups concatenated, each with its auxiliary queries last
        self.weight = nn.Parameter(torch.empty(rows, dim))
        nn.init.normal_(self.weight)

    def forward(self) -> Tensor:
        """``(G0, Q + auxiliary, dim)`` in training, ``(1, Q, dim)`` in evaluation."""
        groups = self.weight.unflatten(0, (self.num_groups, -1))
        return groups if self.training else groups[:1, : self.num_queries]
