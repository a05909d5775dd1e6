"""DETR (Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020).

The official code is facebookresearch/detr. Its queries are a learned position and a content that starts at zero; boxes
are predicted outright in every stage, so there is no reference to refine (``R = 0``) and recollection is concatenation
of content. Output norm and heads are shared by all stages: the dense-recurrent plan needs nothing special, and a
decoder of one stage holds all that the last stage needs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ..layers import FFN, MLP, Dropout, MemoryAttention, MultiheadAttention, QueryTable, xavier_uniform_all
from ..structures import DenseMemory, InitialQueries, QueryState, StagePrediction


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


class DetrStage(nn.Module):
    """Self-attention inside a group, attention to all tokens, FFN, and the heads; post-norm.

    Predictions are made from the normalised output, the next stage goes on from the output as it is.

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
        super().__init__()
        self.self_attn = MultiheadAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.cross_attn = MemoryAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.ffn = FFN(dim=dim, hidden_dim=ffn_dim, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        xavier_uniform_all(self)
        self.norm = norm
        self.class_embed = class_embed
        self.bbox_embed = bbox_embed

    def prepare(self, memory: DenseMemory) -> DenseMemory:
        """The memory with this stage's keys and values."""
        if memory.projected is not None:
            return memory
        return replace(memory, projected=self.cross_attn.project(memory.placed, memory.tokens, memory.padding_mask))

    def forward(self, state: QueryState, memory: DenseMemory) -> tuple[QueryState, StagePrediction]:
        content, position = state.content, state.extras["position"]
        b, g, q, c = content.shape
        # self-attention: groups are a batch of their own, (B*G, Q, C)
        x = content.reshape(b * g, q, c)
        qk = x + position.reshape(b * g, q, c)
        x = self.norm1(x + self.dropout1(self.self_attn(qk, qk, x)))
        # everything else: groups are more queries of the same image, (B, G*Q, C)
        x = x.view(b, g * q, c)
        attended = self.cross_attn.attend(x + position.reshape(b, g * q, c), self.prepare(memory).projected)
        x = self.norm2(x + self.dropout2(attended))
        x = self.norm3(self.ffn(x)).view(b, g, q, c)
        output = self.norm(x)
        boxes = self.bbox_embed(output).float().sigmoid()
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
