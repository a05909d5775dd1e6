"""Group DETR on Conditional DETR (Chen et al., ICCV 2023; Meng et al., ICCV 2021).

With one group it is Conditional DETR. A query is a learned position; its reference point is predicted from the
position once, before the first stage, and kept, so recollected groups differ only in their contents. Only the first
stage adds positions to contents and leaves the sine embedding unscaled; a group that skips it goes through the next
stage like any other, and the last stage needs nothing from the first one (``special_first=False`` builds it
separately).

Published weights come from detrex, whose attention leaks across groups in training; here groups are independent.
In evaluation there is one group and both agree.
"""

from __future__ import annotations

import torch
from torch import nn

from ..boxes import refine_boxes
from ..layers import MLP, QueryTable, box_encoding, in_float32, make_heads, xavier_uniform_all
from ..layers.conditional_decoder import ConditionalDecoderLayer
from ..layers.repeated import repeated
from ..structures import DenseMemory, InitialQueries, PreparedMemory, QueryState, StagePrediction
from ..targets import Targets

INVERSE_SIGMOID_EPS = 1e-3
"""As in detrex."""


class PointQueries(nn.Module):
    """Learned positions, and a reference point predicted from each; content starts at zero.

    Args:
        num_queries: ``Q`` of a group.
        num_groups: groups trained together, the first one is used in evaluation (11 in the paper).
        dim: ``C``.
        num_auxiliary: further queries of a group, in training only, that are matched with repeated objects (hybrid
            matching).
    """

    def __init__(self, *, num_queries: int = 300, num_groups: int = 11, dim: int = 256, num_auxiliary: int = 0):
        super().__init__()
        self.num_queries = num_queries
        self.query_embed = QueryTable(
            num_queries=num_queries, dim=dim, num_groups=num_groups, num_auxiliary=num_auxiliary
        )
        self.ref_point_head = MLP(in_dim=dim, hidden_dim=dim, out_dim=2, num_layers=2)
        xavier_uniform_all(self.ref_point_head)

    def forward(self, memory: DenseMemory, targets: Targets | None = None) -> InitialQueries:
        position = self.query_embed()
        points = in_float32(self.ref_point_head, position).sigmoid()
        reference = torch.cat((points, torch.zeros_like(points)), dim=-1)
        shape = (memory.tokens.shape[0], -1, -1, -1)
        position = position.expand(shape)
        state = QueryState(torch.zeros_like(position), reference.expand(shape), {"position": position})
        return InitialQueries.split(state, self.num_queries)


class ConditionalDetrStage(ConditionalDecoderLayer):
    """Attention around a reference point, and a box predicted from that point.

    Args:
        num_classes: ``K``.
        special_first: see :class:`~sqr.layers.conditional_decoder.ConditionalDecoderLayer`.
    """

    shared = ("norm", "class_embed", "bbox_embed", "query_scale")

    def __init__(
        self,
        *,
        num_classes: int,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        special_first: bool = True,
    ):
        super().__init__(
            dim=dim,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            dropout=dropout,
            activation=activation,
            special_first=special_first,
        )
        self.norm = nn.LayerNorm(dim)
        self.class_embed, self.bbox_embed = make_heads(num_classes=num_classes, dim=dim)

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        sine = box_encoding(state.reference[..., :2], dim=state.content.shape[-1] // 2).to(state.content.dtype)
        if self.query_scale is not None:
            sine = sine * self.query_scale(state.content)
        x = self.attend(memory, state.content, state.extras["position"], sine)
        output = self.norm(x)
        boxes = refine_boxes(in_float32(self.bbox_embed, output), state.reference, INVERSE_SIGMOID_EPS)
        return QueryState(x, state.reference, state.extras), StagePrediction(self.class_embed(output), boxes)


conditional_detr_stages = repeated(ConditionalDetrStage, "conditional_detr_stages", "num_stages")
