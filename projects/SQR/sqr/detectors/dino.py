"""DINO (Zhang et al., "DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection", ICLR 2023).

Deformable DETR's encoder proposes the anchor boxes, whose contents are learned (mixed query selection); a stage derives
a query's position from its box and refines the box as in DAB-DETR; a box's loss also trains the previous stage (look
forward twice); and noisy copies of the objects are denoised in training. The official code is IDEA-Research/DINO.

References are ``(..., 4)`` normalised cxcywh, passed on with their graph: every group, recollected or of denoising
queries, refines its own box, and only the predicted box uses that graph.
"""

from __future__ import annotations

import copy
import math

from torch import nn

from ..boxes import refine_boxes
from ..layers import MLP, QueryTable, box_encoding, in_float32, make_heads, xavier_uniform_all
from ..layers.deformable_decoder import DeformableDecoderLayer
from ..layers.denoising import ContrastiveDenoising
from ..layers.proposals import propose
from ..structures import InitialQueries, MultiScaleMemory, PreparedMemory, QueryState, StagePrediction
from ..targets import Targets

INVERSE_SIGMOID_EPS = 1e-3
"""As in the official code and in detrex."""


class DinoQueries(nn.Module):
    """Mixed query selection: the best proposals are the boxes, the contents are learned.

    As published, tokens are ranked by their best class, and only the proposals that become queries are trained, with
    the objects' own classes.

    Args:
        num_queries: ``Q``.
        num_classes: ``K``.
        dim: ``C``, a multiple of 4.
        denoising: creates denoising queries in training; None disables them.
    """

    def __init__(
        self, *, num_queries: int = 900, num_classes: int, dim: int = 256, denoising: ContrastiveDenoising | None = None
    ):
        super().__init__()
        self.num_queries = num_queries
        self.content = QueryTable(num_queries=num_queries, dim=dim)
        self.enc_output = nn.Linear(dim, dim)
        self.enc_output_norm = nn.LayerNorm(dim)
        self.class_embed, self.bbox_embed = make_heads(num_classes=num_classes, dim=dim)
        self.denoising = denoising
        for module in (self.content, self.enc_output):
            xavier_uniform_all(module)

    def forward(self, memory: MultiScaleMemory, targets: Targets | None = None) -> InitialQueries:
        """``targets`` are the batch's objects in training, None in evaluation."""
        _, logits, raw_boxes, barred = propose(
            memory,
            at_least=self.num_queries,
            project=lambda x: self.enc_output_norm(self.enc_output(x)),
            class_embed=self.class_embed,
            bbox_embed=self.bbox_embed,
        )
        best = logits.amax(-1).masked_fill(barred, -math.inf).topk(self.num_queries, dim=1).indices[..., None]
        boxes = raw_boxes.gather(1, best.expand(-1, -1, 4)).sigmoid()
        proposals = StagePrediction(logits.gather(1, best.expand(-1, -1, logits.shape[-1]))[:, None], boxes[:, None])
        content = self.content().expand(boxes.shape[0], -1, -1)
        return InitialQueries(
            QueryState(content[:, None], boxes.detach()[:, None]),
            proposals,
            denoising=None if targets is None or self.denoising is None else self.denoising(targets),
            classed_proposals=True,
        )


class DinoStage(DeformableDecoderLayer):
    """A deformable decoder layer whose query position comes from its box, and the refinement of the box.

    The box passed on is refined from the raw output and the detached box, the predicted one from the normalised output
    and the box with its graph.

    Args:
        norm, ref_point_head: output norm, and ``2 C -> C`` from a box's sine embedding to a position; shared by all
            stages.
        class_embed, bbox_embed: heads; shared by all stages in the official code, separate per stage in detrex.
    """

    def __init__(
        self,
        *,
        norm: nn.Module,
        ref_point_head: nn.Module,
        class_embed: nn.Module,
        bbox_embed: nn.Module,
        dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        ffn_dim: int = 2048,
        dropout: float = 0.0,
    ):
        super().__init__(
            dim=dim,
            num_heads=num_heads,
            num_levels=num_levels,
            num_points=num_points,
            ffn_dim=ffn_dim,
            dropout=dropout,
        )
        self.norm, self.ref_point_head = norm, ref_point_head
        self.class_embed, self.bbox_embed = class_embed, bbox_embed

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        box = state.reference.detach()
        anchor = box
        if not memory.memory.ignores_padding:  # as published: in the first level's padded extent
            anchor = box * memory.memory.valid_ratios[:, None, None, 0].repeat(1, 1, 1, 2)  # (B, 1, 1, 4)
        position = self.ref_point_head(box_encoding(anchor, dim=state.content.shape[-1] // 2))
        x = self.attend(memory, state.content, position, box, state.extras.get("block"))
        handed_on = refine_boxes(in_float32(self.bbox_embed, x), box, INVERSE_SIGMOID_EPS)
        output = self.norm(x)
        boxes = refine_boxes(in_float32(self.bbox_embed, output), state.reference, INVERSE_SIGMOID_EPS)
        return QueryState(x, handed_on, state.extras), StagePrediction(self.class_embed(output), boxes)


def dino_stages(
    *,
    num_stages: int = 6,
    num_classes: int,
    shared_heads: bool = True,
    dim: int = 256,
    num_heads: int = 8,
    num_levels: int = 4,
    num_points: int = 4,
    ffn_dim: int = 2048,
    dropout: float = 0.0,
) -> list[DinoStage]:
    """The decoder stages of DINO, with one pair of heads for all (official) or one each (detrex)."""
    ref_point_head = MLP(in_dim=2 * dim, hidden_dim=dim, out_dim=dim, num_layers=2)
    xavier_uniform_all(ref_point_head)
    norm = nn.LayerNorm(dim)
    heads = make_heads(num_classes=num_classes, dim=dim)
    stages = []
    for stage in range(num_stages):
        if stage > 0 and not shared_heads:
            heads = copy.deepcopy(heads)  # detrex's start from the same values
        stages.append(
            DinoStage(
                norm=norm,
                ref_point_head=ref_point_head,
                class_embed=heads[0],
                bbox_embed=heads[1],
                dim=dim,
                num_heads=num_heads,
                num_levels=num_levels,
                num_points=num_points,
                ffn_dim=ffn_dim,
                dropout=dropout,
            )
        )
    return stages
