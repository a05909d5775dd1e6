"""DETR (Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020).

The official code is facebookresearch/detr. A query is a learned position and a content that starts at zero. Every stage
predicts boxes outright, so there is no reference to refine (``R = 0``) and recollection concatenates contents. All
stages share the output norm and the heads, so the last stage works as a decoder of its own: the dense-recurrent plan
needs nothing special.
"""

from __future__ import annotations

import torch
from torch import nn

from ..layers import MLP, CrossAttention, DenseDecoderLayer, QueryTable, SelfAttention, in_float32
from ..structures import DenseMemory, InitialQueries, PreparedMemory, QueryState, StagePrediction


class PositionQueries(nn.Module):
    """Learned positions; content starts at zero.

    Args:
        num_queries: ``Q``.
        num_groups: groups trained side by side, see :class:`~sqr.layers.QueryTable`.
        dim: ``C``.
        num_auxiliary: further queries, in training only, that are matched with repeated objects (hybrid matching).
    """

    def __init__(self, *, num_queries: int = 100, num_groups: int = 1, dim: int = 256, num_auxiliary: int = 0):
        super().__init__()
        self.num_queries = num_queries
        self.query_embed = QueryTable(
            num_queries=num_queries, dim=dim, num_groups=num_groups, num_auxiliary=num_auxiliary
        )

    def forward(self, memory: DenseMemory) -> InitialQueries:
        position = self.query_embed().expand(memory.tokens.shape[0], -1, -1, -1)
        content = torch.zeros_like(position)
        state = QueryState(content, position.new_zeros(*position.shape[:-1], 0), {"position": position})
        return InitialQueries.split(state, self.num_queries)


class DetrStage(DenseDecoderLayer):
    """A decoder layer and its heads.

    Predictions are made from the normalised output; the next stage gets the output itself.

    Args:
        norm: output norm, shared by all stages.
        class_embed: ``C -> K + 1`` head, likewise.
        bbox_embed: ``C -> 4`` head, likewise.
    """

    def __init__(
        self,
        *,
        norm: nn.Module,
        class_embed: nn.Module,
        bbox_embed: nn.Module,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
    ):
        super().__init__(
            self_attn=SelfAttention(dim=dim, num_heads=num_heads, dropout=dropout),
            cross_attn=CrossAttention(dim=dim, num_heads=num_heads, dropout=dropout),
            dim=dim,
            ffn_dim=ffn_dim,
            dropout=dropout,
        )
        self.norm = norm
        self.class_embed = class_embed
        self.bbox_embed = bbox_embed

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        x = self.attend(memory, state.content, state.extras["position"])
        output = self.norm(x)
        boxes = in_float32(self.bbox_embed, output).sigmoid()
        return QueryState(x, state.reference, state.extras), StagePrediction(self.class_embed(output), boxes)


def detr_stages(
    *,
    num_stages: int = 6,
    num_classes: int,
    dim: int = 256,
    num_heads: int = 8,
    ffn_dim: int = 2048,
    dropout: float = 0.1,
) -> list[DetrStage]:
    """The decoder stages; class heads have ``num_classes + 1`` outputs, the last being "no object"."""
    norm = nn.LayerNorm(dim)
    class_embed = nn.Linear(dim, num_classes + 1)
    bbox_embed = MLP(in_dim=dim, hidden_dim=dim, out_dim=4, num_layers=3)
    return [
        DetrStage(
            norm=norm,
            class_embed=class_embed,
            bbox_embed=bbox_embed,
            dim=dim,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            dropout=dropout,
        )
        for _ in range(num_stages)
    ]
