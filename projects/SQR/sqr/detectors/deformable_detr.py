"""Deformable DETR (Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR 2021).

Three published forms: plain, iterative box refinement (``refine=True``) and two-stage (refinement with
:class:`ProposalQueries`). The official code is fundamentalvision/Deformable-DETR.

References are boxes ``(..., 4)``, normalised cxcywh. The plain form and the first stage of the refining form start from
*points*: boxes of zero extent (:func:`~sqr.boxes.is_point`). With recollection a stage can therefore see points and
refined boxes side by side, each group with its own: a group that skips stages keeps the reference it had, and both the
sampling around it and the box predicted from it follow that reference. (The released SQR code recollects content only
and hands every group the same references, which is right for the plain form alone; its refining form trains on
references that inference never uses.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..boxes import is_point, refine_boxes
from ..layers import QueryTable, in_float32, make_heads, sine_encoding
from ..layers.deformable_decoder import DeformableDecoderLayer
from ..layers.deformable_encoder import token_centres
from ..structures import InitialQueries, MultiScaleMemory, PreparedMemory, QueryState, StagePrediction


class LearnedQueries(nn.Module):
    """Learned content and position, and a reference point predicted from the position.

    Args:
        num_queries: ``Q``.
        num_groups: groups trained side by side, see :class:`~sqr.layers.QueryTable`.
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

    def forward(self, memory: MultiScaleMemory) -> InitialQueries:
        position, content = self.query_embed().chunk(2, dim=-1)
        points = in_float32(self.reference_points, position).sigmoid()
        reference = torch.cat((points, torch.zeros_like(points)), dim=-1)
        shape = (memory.tokens.shape[0], -1, -1, -1)
        extras = {"position": position.expand(shape)}
        state = QueryState(content.expand(shape), reference.expand(shape), extras)
        return InitialQueries.split(state, self.num_queries)


class ProposalQueries(nn.Module):
    """The two-stage form: the encoder proposes a box a token, the best become the queries' references.

    As published, tokens are ranked by the logit of class 0, proposals are trained with every object as class 0, and
    references and positions are detached from them. Tokens that cannot propose compete by the score of a zero feature,
    as published, unless the encoder ignores padding: then they come last, since their number grows with the padding.

    Args:
        num_queries: ``Q``, proposals kept an image.
        num_classes: ``K``.
        dim: ``C``, a multiple of 8.
        num_auxiliary: next best proposals, in training only, that are matched with repeated objects (hybrid matching).
        mixed_selection: the content of the i-th best proposal is learned, only its position comes from the proposal
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

    def forward(self, memory: MultiScaleMemory) -> InitialQueries:
        num_queries = self.num_queries + (self.num_auxiliary if self.training else 0)
        anchors, invalid = token_anchors(memory)
        tokens = memory.tokens.masked_fill(invalid, 0)
        lacking = max(0, num_queries - tokens.shape[1])  # of an image with fewer tokens than queries, such as a strip
        tokens = F.pad(tokens, (0, 0, 0, lacking))
        anchors = F.pad(anchors, (0, 0, 0, lacking), value=math.inf)
        invalid = F.pad(invalid, (0, 0, 0, lacking), value=True)
        tokens = self.enc_output_norm(self.enc_output(tokens))
        logits = self.class_embed(tokens)  # (B, N, K)
        raw_boxes = in_float32(self.bbox_embed, tokens) + anchors
        rank = logits[..., 0]
        if memory.ignores_padding:
            rank = rank.masked_fill(invalid[..., 0], -math.inf)
        best = rank.topk(num_queries, dim=1).indices
        raw = raw_boxes.detach().gather(1, best[..., None].expand(-1, -1, 4))
        reference = raw.sigmoid()
        embedding = sine_encoding(reference * (2 * math.pi), dim=tokens.shape[-1] // 2).flatten(-2)
        position, content = self.pos_trans_norm(self.pos_trans(embedding)).chunk(2, dim=-1)
        if self.query_embed is not None:
            content = self.query_embed().expand_as(content)
        state = QueryState(content[:, None], reference[:, None], {"position": position[:, None]})
        proposals = StagePrediction(logits[:, None], raw_boxes.sigmoid()[:, None])
        return InitialQueries.split(state, self.num_queries, proposals)


def token_anchors(memory: MultiScaleMemory) -> tuple[Tensor, Tensor]:
    """Each token's prior box in logit space, and which tokens cannot propose.

    Returns:
        ``(B, N, 4)`` logits of cxcywh (a square of ``0.05 * 2 ** level`` at the token's centre; infinite where
        invalid) and ``(B, N, 1)`` bool, True for padding and for priors not inside (0.01, 0.99).
    """
    centres = token_centres(memory.spatial_shapes, memory.valid_ratios)
    sizes = torch.cat(
        [centres.new_full((h * w, 2), 0.05 * 2.0**level) for level, (h, w) in enumerate(memory.spatial_shapes)]
    )
    anchors = torch.cat((centres, sizes.expand_as(centres)), dim=-1)
    inside = ((anchors > 0.01) & (anchors < 0.99)).all(-1, keepdim=True)
    invalid = ~inside | memory.padding_mask[..., None]
    return torch.log(anchors / (1 - anchors)).masked_fill(invalid, math.inf), invalid


class DeformableDecoderStage(DeformableDecoderLayer):
    """A deformable decoder layer and its heads.

    Args:
        class_embed: ``C -> K`` head; the plain form shares one over all stages.
        bbox_embed: ``C -> 4`` head, likewise.
        refine: hand the predicted box (detached) to the next stage as its reference; otherwise the reference stays.
        look_forward_twice: with ``refine``, do not detach that box where the next stage's box is predicted from it, so
            that a box's loss also reaches the stage before (Zhang et al., "DINO", ICLR 2023, section 3.5).
    """

    def __init__(
        self,
        *,
        class_embed: nn.Module,
        bbox_embed: nn.Module,
        refine: bool = False,
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
        self.refine, self.look_forward_twice = refine, look_forward_twice
        self.class_embed = class_embed
        self.bbox_embed = bbox_embed

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        anchor = state.reference
        if self.look_forward_twice:  # boxes arrive attached to the stage before; points are the generator's own
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


def deformable_stages(
    *,
    num_stages: int = 6,
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
) -> list[DeformableDecoderStage]:
    """The decoder stages of a published form.

    The plain form shares one pair of heads over all stages, the refining forms have a pair a stage. A box predicted
    from a point starts small (size bias -2: ``sigmoid(-2) = 0.12`` of the image); one predicted from a proposal
    (``two_stage``) starts at the proposal.
    """
    for name, value in (("two_stage", two_stage), ("look_forward_twice", look_forward_twice)):
        if value and not refine:
            raise ValueError(f"{name}=True needs refine=True: the plain form refines no boxes")
    heads = make_heads(num_classes=num_classes, dim=dim)
    if not two_stage:
        nn.init.constant_(heads[1].layers[-1].bias[2:], -2.0)
    stages = []
    for stage in range(num_stages):
        if refine and stage > 0:
            heads = make_heads(num_classes=num_classes, dim=dim)
        stages.append(
            DeformableDecoderStage(
                class_embed=heads[0],
                bbox_embed=heads[1],
                refine=refine,
                look_forward_twice=look_forward_twice,
                dim=dim,
                num_heads=num_heads,
                num_levels=num_levels,
                num_points=num_points,
                ffn_dim=ffn_dim,
                dropout=dropout,
            )
        )
    return stages
