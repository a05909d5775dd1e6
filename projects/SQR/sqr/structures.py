"""The tensors that detectors, decoder, loss and analysis exchange.

Shape glossary, used in every docstring of this package: ``B`` images, ``G`` groups, ``Q`` queries in a group, ``S``
stages, ``C`` channels, ``K`` classes, ``T`` objects of an image, ``L`` levels, ``P`` sampling points, ``H`` heads,
``N`` memory tokens. Boxes are normalised cxcywh in [0, 1] of the *unpadded* image inside models and losses and
absolute xyxy at the interface to Detectron2. A padding mask is ``True`` where the input is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor


@dataclass
class QueryState:
    """The state of queries between two stages.

    Attributes:
        content: ``(B, G, Q, C)``.
        reference: ``(B, G, Q, R)`` in the detector's own parametrisation (point, box, or AdaMixer's x, y, z, r;
            ``R = 0`` for DETR, which refines nothing).
        extras: other per-query tensors of a detector, each ``(B, G, Q, ...)``.

    Recollection concatenates all of them, so every group keeps its own reference and extras.
    """

    content: Tensor
    reference: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_groups(self) -> int:
        return self.content.shape[1]

    @staticmethod
    def cat(states: Sequence[QueryState]) -> QueryState:
        """Concatenate states along the group axis, in order."""
        if len(states) == 1:
            return states[0]
        return QueryState(
            content=torch.cat([s.content for s in states], dim=1),
            reference=torch.cat([s.reference for s in states], dim=1),
            extras={k: torch.cat([s.extras[k] for s in states], dim=1) for k in states[0].extras},
        )

    def copy(self) -> QueryState:
        """A contiguous clone."""
        content, reference, *extras = (
            x.clone(memory_format=torch.contiguous_format)
            for x in (self.content, self.reference, *self.extras.values())
        )
        return QueryState(content, reference, dict(zip(self.extras, extras, strict=True)))

    def groups(self, begin: int, end: int) -> QueryState:
        """Groups ``begin`` to ``end - 1``, as views."""
        if (begin, end) == (0, self.num_groups):
            return self
        return QueryState(
            content=self.content[:, begin:end],
            reference=self.reference[:, begin:end],
            extras={k: v[:, begin:end] for k, v in self.extras.items()},
        )

    def beside(self, others: QueryState) -> QueryState:
        """These queries followed by ``others`` in the same groups, which attend to these and to their own group.

        With ``n`` groups of ``others`` for each group here, they become ``n`` blocks of queries. The extra
        ``block``, ``(B, G, Q)``, controls a stage's self-attention: all queries attend to block 0, and the queries of
        another block also to each other. :meth:`StagePrediction.split` is the inverse.
        """
        blocks = others.num_groups // self.num_groups

        def join(x: Tensor, y: Tensor) -> Tensor:
            return torch.cat((x, y.unflatten(1, (-1, blocks)).flatten(2, 3)), dim=2)

        extras = {k: join(v, others.extras[k]) for k, v in self.extras.items()}
        device = self.content.device
        own = torch.zeros(self.content.shape[2], dtype=torch.int64, device=device)
        block = torch.cat((own, torch.arange(1, blocks + 1, device=device).repeat_interleave(others.content.shape[2])))
        extras["block"] = block.expand(*self.content.shape[:2], -1)
        return QueryState(join(self.content, others.content), join(self.reference, others.reference), extras)

    def split(self, num_queries: int) -> tuple[QueryState, QueryState]:
        """The first ``num_queries`` queries of every group, and the others."""
        first, others = (
            QueryState(
                content=self.content[:, :, part],
                reference=self.reference[:, :, part],
                extras={k: v[:, :, part] for k, v in self.extras.items()},
            )
            for part in (slice(num_queries), slice(num_queries, None))
        )
        return first, others


@dataclass
class StagePrediction:
    """The predictions of a stage.

    Attributes:
        logits: ``(B, G, Q, K)`` raw class scores (``K + 1`` with a no-object class).
        boxes: ``(B, G, Q, 4)`` normalised cxcywh.
        extras: other tensors that a detector's losses need, each ``(B, G, Q, ...)``.
    """

    logits: Tensor
    boxes: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def cat(predictions: Sequence[StagePrediction]) -> StagePrediction:
        """Concatenate predictions along the group axis, in order."""
        if len(predictions) == 1:
            return predictions[0]
        return StagePrediction(
            logits=torch.cat([p.logits for p in predictions], dim=1),
            boxes=torch.cat([p.boxes for p in predictions], dim=1),
            extras={k: torch.cat([p.extras[k] for p in predictions], dim=1) for k in predictions[0].extras},
        )

    def split(self, num_queries: int, blocks: int) -> tuple[StagePrediction, StagePrediction]:
        """The first ``num_queries`` queries of every group, and ``blocks`` blocks of others as separate groups."""
        first, others = zip(
            *(
                (x[:, :, :num_queries], x[:, :, num_queries:].unflatten(2, (blocks, -1)).flatten(1, 2))
                for x in (self.logits, self.boxes)
            ),
            strict=True,
        )
        return StagePrediction(*first), StagePrediction(*others)


@dataclass
class DenoisingSet:
    """Queries made from the objects, in training only.

    Attributes:
        state: ``(B, G, Q, C)``, any number of groups.
        assignment: ``(T,)`` int64, the query in every group of each of the batch's objects.
        sees_queries: whether they also attend to the matched queries, which never attend to them.
    """

    state: QueryState
    assignment: Tensor
    sees_queries: bool = True


class BatchTotals(NamedTuple):
    """Numbers of objects and images by which losses are normalised.

    They are those of the input images, or, if a batch is processed in parts (gradient accumulation), those of all its
    parts in this process.
    """

    objects: int
    images: int


@dataclass
class InitialQueries:
    """The output of a query generator.

    Attributes:
        state: the queries before the first stage, usually one group. With ``G0`` groups (Group DETR) every step of a
            plan has ``G0`` times the plan's groups, all independent.
        proposals: predictions of a two-stage encoder, ``G = 1`` and ``Q = N``, every object being class 0; or None.
        auxiliary: a second query set, in training only (hybrid matching); or None. The decoder runs it separately, so
            that the two sets are independent, and the criterion matches it with repeated objects.
        denoising: queries made from the objects, in training only; or None.
        classed_proposals: proposals have the objects' own classes instead.
    """

    state: QueryState
    proposals: StagePrediction | None = None
    auxiliary: QueryState | None = None
    denoising: DenoisingSet | None = None
    classed_proposals: bool = False

    @staticmethod
    def split(state: QueryState, num_queries: int, proposals: StagePrediction | None = None) -> InitialQueries:
        """Split into the first ``num_queries`` queries, which are also evaluated, and the auxiliary set."""
        if state.content.shape[2] == num_queries:
            return InitialQueries(state, proposals)
        first, auxiliary = state.split(num_queries)
        return InitialQueries(first, proposals, auxiliary)


def fold_groups_into_batch(x: Tensor) -> Tensor:
    """``(B, G, Q, ...)`` -> ``(B * G, Q, ...)``: for operations that must not mix groups, such as self-attention."""
    return x.flatten(0, 1)


def fold_groups_into_queries(x: Tensor) -> Tensor:
    """``(B, G, Q, ...)`` -> ``(B, G * Q, ...)``: for operations on independent queries and an image's memory."""
    return x.flatten(1, 2)


Memory = TypeVar("Memory")
Projection = TypeVar("Projection")


class Decoded(NamedTuple):
    """The predictions that a detector makes from a memory.

    Attributes:
        predictions: one per step.
        proposals: of a two-stage encoder, or None.
        auxiliary: likewise one per step, of the auxiliary set; or None.
        denoising: likewise of the denoising set; or None.
        initial: the queries they come from.
    """

    predictions: list[StagePrediction]
    proposals: StagePrediction | None
    auxiliary: list[StagePrediction] | None
    denoising: list[StagePrediction] | None
    initial: InitialQueries


@dataclass
class PreparedMemory(Generic[Memory, Projection]):
    """The encoder's memory and what one stage computes from it independently of the queries.

    Attributes:
        memory: as the encoder returned it.
        projection: computed by the stage, such as keys and values; None if it needs nothing.
    """

    memory: Memory
    projection: Projection


@dataclass
class KeysAndValues:
    """A memory projected for one attention, split into heads.

    Attributes:
        key: ``(B, H, N, D)``, contiguous.
        value: ``(B, H, N, E)``, contiguous.
        attention_mask: ``(B, 1, 1, N)`` bool, False where padded.
    """

    key: Tensor
    value: Tensor
    attention_mask: Tensor


@dataclass
class DenseMemory:
    """Encoded features of one level, for attention to all of them.

    Attributes:
        tokens: ``(B, N, C)``.
        position: ``(B, N, C)`` position embedding of the tokens.
        padding_mask: ``(B, N)`` bool, True where padded.
    """

    tokens: Tensor
    position: Tensor
    padding_mask: Tensor

    @cached_property
    def tokens_with_position(self) -> Tensor:
        """``(B, N, C)`` sum of tokens and position, computed once per image for all stages."""
        # attached to the tokens even if first computed without gradients
        with torch.enable_grad() if self.tokens.requires_grad else nullcontext():
            return self.tokens + self.position


@dataclass
class MultiScaleMemory:
    """Encoded features of several levels, flattened and concatenated.

    Attributes:
        tokens: ``(B, N, C)``.
        padding_mask: ``(B, N)`` bool, True where padded.
        spatial_shapes: ``(height, width)`` of each of the ``L`` levels, on the host.
        valid_ratios: ``(B, L, 2)`` unpadded fraction of each level's width and height, in (0, 1].
        pixel_sizes: ``(B, L, 2)`` size of a pixel relative to each level's padded width and height.
        ignores_padding: whether results computed from the memory must not depend on the padding of the batch.
    """

    tokens: Tensor
    padding_mask: Tensor
    spatial_shapes: tuple[tuple[int, int], ...]
    valid_ratios: Tensor
    pixel_sizes: Tensor
    ignores_padding: bool = False


@dataclass
class PyramidMemory:
    """Feature maps of several levels, flattened and concatenated, for detectors that sample them in pixels.

    Attributes:
        tokens: ``(B, N, C)``, padding included.
        spatial_shapes: ``(height, width)`` of each of the ``L`` levels, on the host.
        strides: pixels of the padded input image per pixel of each level.
        image_sizes: ``(B, 2)`` float32 width and height of the unpadded images in pixels.
        scales: ``(B, L)`` float32 binary logarithms of the strides.
    """

    tokens: Tensor
    spatial_shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    image_sizes: Tensor
    scales: Tensor


@dataclass
class ImagePredictions:
    """The predictions of all stages for one image, query ids aligned over stages.

    Attributes:
        scores: ``(S, Q, K)`` class probabilities.
        boxes: ``(S, Q, 4)`` absolute xyxy in pixels of the original image, not clipped.
        image_size: ``(height, width)`` of the original image.
    """

    scores: Tensor
    boxes: Tensor
    image_size: tuple[int, int]
