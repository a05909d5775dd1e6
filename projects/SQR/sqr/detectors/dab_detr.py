"""DAB-DETR and DAB-Deformable-DETR (Liu et al., "DAB-DETR: Dynamic Anchor Boxes are Better Queries for DETR", 2022).

Published at ICLR 2022; the official code is IDEA-Research/DAB-DETR. Queries are anchor boxes: a stage derives a query's
position from its box and refines the box. References are ``(..., 4)`` normalised cxcywh.

With recollection every group has its own box, and a stage works in the same way whatever a group's path: only the first
stage of DAB-DETR adds positions to contents and leaves the sine embedding unscaled, and a group that skips it
(path ``0-2``) goes through stage 2 like any other group, with its zero content. Hence the dense-recurrent plan works:
its last stage was trained on the initial queries (path ``0-6``) and needs nothing from the first one. Shared modules
(norm, heads, position networks) are listed in each stage's state, so that the last stage is a complete decoder by
itself; build it with ``special_first=False``.

The initial anchors are trainable, as in the release (which "freezes" the centres of some variants by a statement
without effect).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from ..boxes import inverse_sigmoid, refine_boxes
from ..layers import MLP, QueryTable, box_encoding, in_float32, make_heads, xavier_uniform_all
from ..layers.conditional_decoder import ConditionalDecoderLayer
from ..layers.deformable_decoder import DeformableDecoderLayer
from ..layers.repeated import repeated
from ..structures import DenseMemory, InitialQueries, MultiScaleMemory, PreparedMemory, QueryState, StagePrediction
from ..targets import Targets

INVERSE_SIGMOID_EPS = 1e-3
"""Of both forms, in the official code and in detrex; Deformable DETR has 1e-5."""


class AnchorQueries(nn.Module):
    """Learned anchor boxes.

    Args:
        num_queries: ``Q``.
        num_groups: groups trained together, see :class:`~sqr.layers.QueryTable`.
        dim: ``C``.
        learned_content: also learn the content (DAB-Deformable-DETR); otherwise it starts at zero (DAB-DETR).
        num_auxiliary: further queries, in training only, that are matched with repeated objects (hybrid matching).
        uniform_centers: draw the initial centres uniformly over the image, as detrex; otherwise they are normal before
            the sigmoid, as the official code has them by default.
    """

    def __init__(
        self,
        *,
        num_queries: int = 300,
        num_groups: int = 1,
        dim: int = 256,
        learned_content: bool = False,
        num_auxiliary: int = 0,
        uniform_centers: bool = False,
    ):
        super().__init__()
        self.num_queries, self.dim = num_queries, dim
        make_table = partial(QueryTable, num_queries=num_queries, num_groups=num_groups, num_auxiliary=num_auxiliary)
        self.anchors = make_table(dim=4)  # before the sigmoid
        self.content = make_table(dim=dim) if learned_content else None
        if uniform_centers:
            centers = torch.rand_like(self.anchors.weight[:, :2])
            self.anchors.weight.data[:, :2] = inverse_sigmoid(centers, INVERSE_SIGMOID_EPS)

    def forward(self, memory: DenseMemory | MultiScaleMemory, targets: Targets | None = None) -> InitialQueries:
        anchors = self.anchors().sigmoid()
        content = anchors.new_zeros(*anchors.shape[:2], self.dim) if self.content is None else self.content()
        shape = (memory.tokens.shape[0], -1, -1, -1)
        return InitialQueries.split(QueryState(content.expand(shape), anchors.expand(shape)), self.num_queries)


class DabDetrStage(ConditionalDecoderLayer):
    """Attention around an anchor box, modulated by its width and height, and the refinement of the box.

    Everything but the predicted box uses the incoming box detached (in the first stage, the learned anchors
    undetached). The predicted box is refined from the incoming box *with* its graph, so its loss also trains the offset
    that produced that box. The box passed on is refined from the raw output, the predicted one from the normalised
    output.

    Args:
        num_classes: ``K``.
        special_first: see :class:`~sqr.layers.conditional_decoder.ConditionalDecoderLayer`.
    """

    shared = ("norm", "class_embed", "bbox_embed", "query_scale", "ref_point_head", "ref_anchor_head")

    def __init__(
        self,
        *,
        num_classes: int,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.0,
        activation: str = "prelu",
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
        self.ref_point_head = _xavier_mlp(2 * dim, dim, dim)  # a box's sine embedding -> the query's position
        self.ref_anchor_head = _xavier_mlp(dim, dim, 2)  # the content -> width and height to attend to

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        content = state.content
        half = content.shape[-1] // 2
        box = state.reference if self.query_scale is None else state.reference.detach()
        embedding = box_encoding(box, dim=half)  # (B, G, Q, 2 C): y, x, w, h
        sine = embedding[..., : 2 * half]
        if self.query_scale is not None:
            sine = sine * self.query_scale(content)
        ratio = self.ref_anchor_head(content).sigmoid() / box[..., 2:]  # of width, of height
        sine = torch.cat((sine[..., :half] * ratio[..., 1:], sine[..., half:] * ratio[..., :1]), dim=-1)
        x = self.attend(memory, content, self.ref_point_head(embedding), sine)
        handed_on = refine_boxes(in_float32(self.bbox_embed, x), box, INVERSE_SIGMOID_EPS)
        output = self.norm(x)
        boxes = refine_boxes(in_float32(self.bbox_embed, output), state.reference, INVERSE_SIGMOID_EPS)
        return QueryState(x, handed_on, state.extras), StagePrediction(self.class_embed(output), boxes)


dab_detr_stages = repeated(DabDetrStage, "dab_detr_stages", "num_stages")


class DabDeformableStage(DeformableDecoderLayer):
    """A deformable decoder layer whose query position comes from its box, and the refinement of the box.

    The predicted box, detached, is the next stage's reference. As published, the position is the sine embedding of the
    box relative to the first level's *padded* extent (to the image if the encoder ignores padding), and is scaled by
    the content in all stages but the first.

    Args:
        num_classes: ``K``.
        special_first: whether the first stage differs: it does not scale positions (so ``query_scale`` is None), and
            its boxes start small. False if the only stage was a later one.
    """

    shared = ("query_scale", "ref_point_head")
    cloned = ("class_embed", "bbox_embed")

    def __init__(
        self,
        *,
        num_classes: int,
        dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        ffn_dim: int = 2048,
        dropout: float = 0.0,
        special_first: bool = True,
    ):
        super().__init__(
            dim=dim,
            num_heads=num_heads,
            num_levels=num_levels,
            num_points=num_points,
            ffn_dim=ffn_dim,
            dropout=dropout,
        )
        self.special_first = special_first
        self.class_embed, self.bbox_embed = make_heads(num_classes=num_classes, dim=dim)
        self.query_scale: nn.Module | None = _xavier_mlp(dim, dim, dim)
        self.ref_point_head = _xavier_mlp(2 * dim, dim, dim)

    def make_first(self) -> None:
        if self.special_first:
            self.query_scale = None
            nn.init.constant_(self.bbox_embed.layers[-1].bias[2:], -2.0)

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        box, levels = state.reference, memory.memory
        if not levels.ignores_padding:
            box = box * levels.valid_ratios[:, None, None, 0].repeat(1, 1, 1, 2)  # (B, 1, 1, 4)
        position = self.ref_point_head(box_encoding(box, dim=state.content.shape[-1] // 2))
        if self.query_scale is not None:
            position = position * self.query_scale(state.content)
        x = self.attend(memory, state.content, position, state.reference)
        boxes = refine_boxes(in_float32(self.bbox_embed, x), state.reference, INVERSE_SIGMOID_EPS)
        return QueryState(x, boxes.detach(), state.extras), StagePrediction(self.class_embed(x), boxes)


dab_deformable_stages = repeated(DabDeformableStage, "dab_deformable_stages", "num_stages")


def _xavier_mlp(in_dim: int, hidden_dim: int, out_dim: int) -> MLP:
    network = MLP(in_dim=in_dim, hidden_dim=hidden_dim, out_dim=out_dim, num_layers=2)
    xavier_uniform_all(network)
    return network
