"""AdaMixer (Gao et al., "AdaMixer: A Fast-Converging Query-Based Object Detector", CVPR 2022).

The official code is MCG-NJU/AdaMixer. No encoder: queries sample the backbone's levels directly, at points that they
choose in x, y and scale, and mix the samples with matrices that they generate.

References are ``(x, y, z, r)``: a box's centre in pixels of the padded input image, ``z = log2(sqrt(w * h))`` and
``r = log2(h / w)``. They are detached between stages, the content is not. Every group has its own; predictions are
normalised by each image's unpadded size, as everywhere in this package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boxes import cxcywh_to_xyxy
from ..decoder import DecoderStage
from ..layers import FFN, AdaptiveMixing, AdaptiveSampling, QueryTable, SelfAttention, in_float32, sine_encoding
from ..layers.adaptive_mixing import Generators
from ..layers.repeated import repeated
from ..ops import operand
from ..structures import (
    InitialQueries,
    PreparedMemory,
    PyramidMemory,
    QueryState,
    StagePrediction,
    fold_groups_into_batch,
    fold_groups_into_queries,
)
from ..targets import Targets

POSITION_UNIT = 1000.0
"""What x and y are divided by before the sine embedding, as published; z and r are not."""


def box_to_xyzr(boxes: Tensor) -> Tensor:
    """``(..., 4)`` cxcywh in pixels -> ``(..., 4)`` xyzr."""
    width, height = boxes[..., 2:].unbind(-1)
    z = (width * height).sqrt().log2()
    return torch.cat((boxes[..., :2], torch.stack((z, (height / width).log2()), dim=-1)), dim=-1)


def xyzr_to_box(xyzr: Tensor) -> Tensor:
    """``(..., 4)`` xyzr -> ``(..., 4)`` cxcywh in pixels."""
    half_r = xyzr[..., 3:] / 2
    # a product of powers: rounding z - r / 2 first would cost three times the precision
    size = xyzr[..., 2:3].exp2() * torch.cat((-half_r, half_r), dim=-1).exp2()
    return torch.cat((xyzr[..., :2], size), dim=-1)


def refine_xyzr(delta: Tensor, xyzr: Tensor) -> Tensor:
    """Move references by predicted offsets: x and y in units of ``2 ** z``, z and r by addition (section 3.1)."""
    centre = xyzr[..., :2] + delta[..., :2] * xyzr[..., 2:3].exp2()
    return torch.cat((centre, xyzr[..., 2:] + delta[..., 2:]), dim=-1)


class PyramidEncoder(nn.Module):
    """Backbone features -> :class:`~sqr.structures.PyramidMemory`; only a neck.

    Args:
        neck: maps backbone features to ``L`` maps ``(B, C, h, w)``, finest first.
        strides: of each level. Images must be padded to a multiple of the coarsest (``size_divisibility``).
        ignore_padding: encode an image independently of the padding of its batch, by treating padding like the zeros
            beyond the map. False, as published: padding enters the neck's statistics and is sampled like any pixel.
    """

    def __init__(self, *, neck: nn.Module, strides: Sequence[int] = (4, 8, 16, 32), ignore_padding: bool = False):
        super().__init__()
        self.neck = neck
        self.ignore_padding = ignore_padding
        self.strides = tuple(int(s) for s in strides)

    def forward(self, features: Mapping[str, Tensor], padding_mask: Tensor) -> PyramidMemory:
        """Encode a batch.

        Args:
            features: the backbone's output.
            padding_mask: ``(B, height, width)`` bool, True where padded.
        """
        levels = self.neck(features, padding_mask if self.ignore_padding else None)
        if len(levels) != len(self.strides):
            raise ValueError(
                f"the neck made {len(levels)} levels, but strides={self.strides} names {len(self.strides)}"
            )
        for x, stride in zip(levels, self.strides, strict=True):
            expected = tuple((n + stride - 1) // stride for n in padding_mask.shape[1:])
            if tuple(x.shape[2:]) != expected:
                raise ValueError(
                    f"a level is {tuple(x.shape[2:])} but stride {stride} makes {expected} of images of "
                    f"{tuple(padding_mask.shape[1:])} pixels; strides={self.strides} must be the neck's"
                )
        valid = ~padding_mask
        sizes = torch.stack((valid[:, 0].sum(-1), valid[:, :, 0].sum(-1)), dim=-1).float()
        shapes = tuple((x.shape[2], x.shape[3]) for x in levels)
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1)
        scales = sizes.new_tensor(self.strides).log2().expand(sizes.shape[0], -1)
        return PyramidMemory(operand(tokens), shapes, self.strides, sizes, scales)


class FullImageQueries(nn.Module):
    """Learned content, normalised, and a fixed initial box that covers the image.

    The boxes are a buffer: published checkpoints hold them as a parameter that never receives a gradient.

    Args:
        num_queries: ``Q``.
        num_groups: groups trained together, see :class:`~sqr.layers.QueryTable`.
        dim: ``C``.
        num_auxiliary: further queries, in training only, that are matched with repeated objects (hybrid matching).
    """

    def __init__(self, *, num_queries: int = 100, num_groups: int = 1, dim: int = 256, num_auxiliary: int = 0):
        super().__init__()
        self.num_queries = num_queries
        self.init_content = QueryTable(
            num_queries=num_queries, dim=dim, num_groups=num_groups, num_auxiliary=num_auxiliary
        )
        rows = len(self.init_content.weight)
        self.register_buffer("init_boxes", torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(rows, 1))

    def forward(self, memory: PyramidMemory, targets: Targets | None = None) -> InitialQueries:
        content = self.init_content()
        groups, queries, dim = content.shape
        content = F.layer_norm(content, (dim,))
        boxes = self.init_boxes.unflatten(0, (self.init_content.num_groups, -1))[:groups, :queries]
        boxes = boxes * memory.image_sizes.repeat(1, 2)[:, None, None]  # (B, G, Q, 4)
        state = QueryState(content.expand(boxes.shape[0], -1, -1, -1), box_to_xyzr(boxes))
        return InitialQueries.split(state, self.num_queries)


class AdaMixerStage(DecoderStage):
    """Self-attention biased by overlap, adaptive sampling and mixing, FFN, heads; post-norm.

    The attention's input includes the position embedding, which therefore also enters its value and its residual, as
    in the released code. ``iof_tau`` scales, per head, the logarithm of the share of a query's box that another's
    covers.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        in_points: int = 32,
        out_points: int = 128,
        num_feature_groups: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.iof_tau = nn.Parameter(torch.empty(num_heads))
        self.self_attn = SelfAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.sampling = AdaptiveSampling(dim=dim, num_points=in_points, num_feature_groups=num_feature_groups)
        self.mixing = AdaptiveMixing(
            dim=dim, in_points=in_points, out_points=out_points, num_feature_groups=num_feature_groups
        )
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = FFN(dim=dim, hidden_dim=ffn_dim, dropout=dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.class_embed = _head(dim, num_classes)
        self.bbox_embed = _head(dim, 4)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published, except sampling and mixing, which initialise themselves."""
        nn.init.uniform_(self.iof_tau, 0.0, 4.0)
        for module in (self.self_attn.out_proj, self.ffn.linear1, self.ffn.linear2):
            nn.init.xavier_uniform_(module.weight)
        for head in (self.class_embed, self.bbox_embed):
            nn.init.xavier_uniform_(head[0].weight)
        nn.init.xavier_uniform_(self.class_embed[-1].weight)
        nn.init.constant_(self.class_embed[-1].bias, -math.log((1 - 0.01) / 0.01))
        nn.init.zeros_(self.bbox_embed[-1].weight)
        nn.init.zeros_(self.bbox_embed[-1].bias)

    def prepare(self, memory: PyramidMemory) -> PreparedMemory[PyramidMemory, Generators]:
        """Split the generator of mixing matrices into its halves."""
        return PreparedMemory(memory, self.mixing.generators())

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        shape, pyramid = state.content.shape, memory.memory
        reference = state.reference.detach()
        boxes = xyzr_to_box(reference)
        scaled = torch.cat((reference[..., :2] / POSITION_UNIT, reference[..., 2:]), dim=-1)
        position = sine_encoding(scaled, dim=shape[-1] // 4).flatten(-2)
        x = fold_groups_into_batch(state.content + position.to(state.content.dtype))
        bias = self._overlap_bias(fold_groups_into_batch(boxes)).to(x.dtype)
        x = self.norm1(x + self.self_attn(x, bias=bias))
        x = fold_groups_into_queries(x.view(shape))
        sampled = self.sampling(
            x,
            fold_groups_into_queries(boxes),
            fold_groups_into_queries(reference[..., 2:3]),
            pyramid.tokens,
            pyramid.spatial_shapes,
            pyramid.strides,
            pyramid.scales,
        )
        x = self.norm2(self.mixing(x, sampled, memory.projection))
        x = self.norm3(self.ffn(x)).view(shape)
        refined = refine_xyzr(in_float32(self.bbox_embed, x), reference)
        normalised = xyzr_to_box(refined) / pyramid.image_sizes.repeat(1, 2)[:, None, None]
        return QueryState(x, refined.detach(), state.extras), StagePrediction(self.class_embed(x), normalised)

    def _overlap_bias(self, boxes: Tensor) -> Tensor:
        """``(B*G, Q, 4)`` cxcywh -> ``(B*G, H, Q, Q)`` to add to attention logits; its gradient reaches the scales."""
        return self.iof_tau[:, None, None] * (intersection_over_foreground(boxes) + 1e-7).log()[:, None]


def intersection_over_foreground(boxes: Tensor) -> Tensor:
    """``(B, Q, 4)`` cxcywh -> ``(B, Q, Q)``: the share of the first query's box that the second's covers."""
    corners = cxcywh_to_xyxy(boxes)
    low = torch.maximum(corners[:, :, None, :2], corners[:, None, :, :2])
    high = torch.minimum(corners[:, :, None, 2:], corners[:, None, :, 2:])
    area = boxes[..., 2:].prod(-1).clamp(min=1e-6)
    return (high - low).clamp(min=0).prod(-1) / area[..., None]


adamixer_stages = repeated(AdaMixerStage, "adamixer_stages", "num_stages")


def _head(dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, out_dim))
