"""Deformable DETR (Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR 2021).

Three published forms: plain, iterative box refinement (``refine=True``) and two-stage (refinement with
:class:`ProposalQueries`). The official code is fundamentalvision/Deformable-DETR.

References are boxes ``(..., 4)``, normalised cxcywh. The plain form and the first stage of the refining form start from
*points*: boxes of zero extent (:func:`~sqr.boxes.is_point`). With recollection the groups of a stage can therefore have
points or refined boxes: a group that skips stages keeps its reference, and both the sampling and the predicted box use
that reference. (The released SQR code recollects only content and gives every group the same references, which is
correct only for the plain form; its refining form trains on references that inference never uses.)
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ..boxes import is_point, refine_boxes
from ..layers import QueryTable, in_float32, make_heads, sine_encoding
from ..layers.deformable_decoder import DeformableDecoderLayer
from ..layers.proposals import propose
from ..layers.repeated import repeated
from ..structures import InitialQueries, MultiScaleMemory, PreparedMemory, QueryState, StagePrediction
from ..targets import Targets


class LearnedQueries(nn.Module):
    """Learned content and position, and a reference point predicted from the position.

    Args:
        num_queries: ``Q``.
        num_groups: groups trained together, see :class:`~sqr.layers.QueryTable`.
        dim: ``C``.
        num_auxiliary: further queries, in training only, that are matched with repeated objects (hybrid matching).
    """

    def __init__(self, *, num_queries: int = 300, num_groups: int = 1, dim: int = 256, num_auxiliary: int = 0):
        super().__init__()
        self.num_queries = num_queries
        self.query_embed = QueryTable(
            num_queries=num_queries, dim=2 * dim, num_groups=num_groups, num_auxiliary=num_auxiliary
        )  # [position | content], as published
        self.reference_points = nn.Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: MultiScaleMemory, targets: Targets | None = None) -> InitialQueries:
        position, content = self.query_embed().chunk(2, dim=-1)
        points = in_float32(self.reference_points, position).sigmoid()
        reference = torch.cat((points, torch.zeros_like(points)), dim=-1)
        shape = (memory.tokens.shape[0], -1, -1, -1)
        extras = {"position": position.expand(shape)}
        state = QueryState(content.expand(shape), reference.expand(shape), extras)
        return InitialQueries.split(state, self.num_queries)


class ProposalQueries(nn.Module):
    """The two-stage form: the encoder proposes a box per token, and the best become the queries' references.

    As published, tokens are ranked by the logit of class 0, proposals are trained with every object as class 0, and
    references and positions are detached from them. (Officially the heads start from the values of the stages' heads,
    here from a draw of their own.) Invalid tokens are ranked by the score of a zero feature,
    as published, unless the encoder ignores padding: then they are ranked last, since their number grows with the
    padding.

    Args:
        num_queries: ``Q``, proposals kept per image.
        num_classes: ``K``.
        dim: ``C``, a multiple of 8.
        num_auxiliary: next best proposals, in training only, that are matched with repeated objects (hybrid matching).
        mixed_selection: the content of the i-th best proposal is learned, and only its position comes from the proposal
            (Zhang et al., "DINO", ICLR 2023; used by H-DETR).
    """

    def __init__(
        self,
        *,
        num_queries: int = 300,
        num_classes: int,
        dim: int = 256,
        num_auxiliary: int = 0,
        mixed_selection: bool = False,
    ):
        super().__init__()
        self.num_queries, self.num_auxiliary = num_queries, num_auxiliary
        self.query_embed = (
            QueryTable(num_queries=num_queries, dim=dim, num_auxiliary=num_auxiliary) if mixed_selection else None
        )
        self.enc_output = nn.Linear(dim, dim)
        self.enc_output_norm = nn.LayerNorm(dim)
        self.class_embed, self.bbox_embed = make_heads(num_classes=num_classes, dim=dim)
        self.pos_trans = nn.Linear(2 * dim, 2 * dim)
        self.pos_trans_norm = nn.LayerNorm(2 * dim)
        for linear in (self.enc_output, self.pos_trans):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, memory: MultiScaleMemory, targets: Targets | None = None) -> InitialQueries:
        num_queries = self.num_queries + (self.num_auxiliary if self.training else 0)
        tokens, logits, raw_boxes, barred = propose(
            memory,
            at_least=num_queries,
            project=lambda x: self.enc_output_norm(self.enc_output(x)),
            class_embed=self.class_embed,
            bbox_embed=self.bbox_embed,
        )
        best = logits[..., 0].masked_fill(barred, -math.inf).topk(num_queries, dim=1).indices
        raw = raw_boxes.detach().gather(1, best[..., None].expand(-1, -1, 4))
        reference = raw.sigmoid()
        embedding = sine_encoding(reference * (2 * math.pi), dim=tokens.shape[-1] // 2).flatten(-2)
        position, content = self.pos_trans_norm(self.pos_trans(embedding)).chunk(2, dim=-1)
        if self.query_embed is not None:
            content = self.query_embed().expand_as(content)
        state = QueryState(content[:, None], reference[:, None], {"position": position[:, None]})
        proposals = StagePrediction(logits[:, None], raw_boxes.sigmoid()[:, None])
        return InitialQueries.split(state, self.num_queries, proposals)


class DeformableDecoderStage(DeformableDecoderLayer):
    """A deformable decoder layer and its heads.

    Args:
        num_classes: ``K``.
        refine: hand the predicted box (detached) to the next stage as its reference; each stage then has heads of its
            own, which start from the same values as published. Otherwise the reference stays and all stages share their
            heads.
        two_stage: whether the first references are proposals. Points have no size, so the first boxes start small:
            ``sigmoid(-2) = 0.12`` of the image.
        look_forward_twice: with ``refine``, do not detach that box where the next stage's box is predicted from it, so
            that a box's loss also reaches the previous stage (Zhang et al., "DINO", ICLR 2023, section 3.5).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        refine: bool = False,
        two_stage: bool = False,
        look_forward_twice: bool = False,
        dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        ffn_dim: int = 1024,
        dropout: float = 0.1,
    ):
        super().__init__(
            dim=dim,
            num_heads=num_heads,
            num_levels=num_levels,
            num_points=num_points,
            ffn_dim=ffn_dim,
            dropout=dropout,
        )
        for name, value in (("two_stage", two_stage), ("look_forward_twice", look_forward_twice)):
            if value and not refine:
                raise ValueError(f"{name}=True needs refine=True: the plain form refines no boxes")
        self.refine, self.two_stage, self.look_forward_twice = refine, two_stage, look_forward_twice
        self.class_embed, self.bbox_embed = make_heads(num_classes=num_classes, dim=dim)
        heads = ("class_embed", "bbox_embed")
        self.shared, self.cloned = ((), heads) if refine else (heads, ())

    def make_first(self) -> None:
        if not self.two_stage:
            nn.init.constant_(self.bbox_embed.layers[-1].bias[2:], -2.0)

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        anchor = state.reference
        if self.look_forward_twice:  # boxes arrive with the graph of the previous stage; points come from the generator
            anchor = torch.where(is_point(anchor), anchor, anchor.detach())
        x = self.attend(memory, state.content, state.extras["position"], anchor)
        delta = in_float32(self.bbox_embed, x)
        boxes = refine_boxes(delta, state.reference)
        if not self.refine:
            reference = state.reference
        elif self.look_forward_twice:
            reference = refine_boxes(delta, anchor)
        else:
            reference = boxes.detach()
        return QueryState(x, reference, state.extras), StagePrediction(self.class_embed(x), boxes)


deformable_stages = repeated(DeformableDecoderStage, "deformable_stages", "num_stages")
