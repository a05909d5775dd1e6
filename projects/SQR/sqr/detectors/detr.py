"""DETR (Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020).

The official code is facebookresearch/detr. A query is a learned position and a content that starts at zero. Every stage
predicts boxes directly, so there is no reference to refine (``R = 0``) and recollection concatenates contents. All
stages share the output norm and the heads, so the last stage is a complete decoder by itself, as the dense-recurrent
plan requires.
"""

from __future__ import annotations

import torch
from torch import nn

from ..layers import MLP, CrossAttention, DenseDecoderLayer, QueryTable, SelfAttention, in_float32
from ..layers.repeated import repeated
from ..structures import DenseMemory, InitialQueries, PreparedMemory, QueryState, StagePrediction
from ..targets import Targets


class PositionQueries(nn.Module):
    """Learned positions; content starts at zero.

    Args:
        num_queries: ``Q``.
        num_groups: groups trained together, see :class:`~sqr.layers.QueryTable`.
        dim: ``C``.
        num_auxiliary: further queries, in training only, that are matched with repeated objects (hybrid matching).
    """

    def __init__(self, *, num_queries: int = 100, num_groups: int = 1, dim: int = 256, num_auxiliary: int = 0):
        super().__init__()
        self.num_queries = num_queries
        self.query_embed = QueryTable(
            num_queries=num_queries, dim=dim, num_groups=num_groups, num_auxiliary=num_auxiliary
        )

    def forward(self, memory: DenseMemory, targets: Targets | None = None) -> InitialQueries:
        position = self.query_embed().expand(memory.tokens.shape[0], -1, -1, -1)
        content = torch.zeros_like(position)
        state = QueryState(content, position.new_zeros(*position.shape[:-1], 0), {"position": position})
        return InitialQueries.split(state, self.num_queries)


class DetrStage(DenseDecoderLayer):
    """A decoder layer and its heads.

    Predictions are made from the normalised output; the next stage gets the output itself.

    Args:
        num_classes: ``K``; the class head has ``K + 1`` outputs, the last being "no object".
    """

    shared = ("norm", "class_embed", "bbox_embed")

    def __init__(
        self, *, num_classes: int, dim: int = 256, num_heads: int = 8, ffn_dim: int = 2048, dropout: float = 0.1
    ):
        super().__init__(
            self_attn=SelfAttention(dim=dim, num_heads=num_heads, dropout=dropout),
            cross_attn=CrossAttention(dim=dim, num_heads=num_heads, dropout=dropout),
            dim=dim,
            ffn_dim=ffn_dim,
            dropout=dropout,
        )
        self.norm = nn.LayerNorm(dim)
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = MLP(in_dim=dim, hidden_dim=dim, out_dim=4, num_layers=3)

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        x = self.attend(memory, state.content, state.extras["position"])
        output = self.norm(x)
        boxes = in_float32(self.bbox_embed, output).sigmoid()
        return QueryState(x, state.reference, state.extras), StagePrediction(self.class_embed(output), boxes)


detr_stages = repeated(DetrStage, "detr_stages", "num_stages")
