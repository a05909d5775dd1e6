"""Decoder layers of Hugging Face ``transformers`` as decoder stages.

A *family* says what one of their decoders does around its layers: how it reads a query's position, which heads predict
from a layer, and what is passed to the next one. The layers, heads and losses are theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ..boxes import is_point, refine_boxes
from ..decoder import DecoderStage
from ..errors import UserError
from ..structures import (
    PreparedMemory,
    QueryState,
    StagePrediction,
    fold_groups_into_batch,
    fold_groups_into_queries,
)


class TransformersStage(DecoderStage):
    """A layer of their decoder and its heads.

    Self-attention sees ``(B * G, Q, C)``; the rest of the layer sees ``(B, G * Q, C)`` against one memory. The modules
    belong to their network: a stage has no parameters itself.

    Args:
        network: a ``...ForObjectDetection`` model.
        index: of the layer.
    """

    def __init__(self, network: nn.Module, index: int):
        super().__init__()
        self._parts = (network, network.model.decoder)  # a tuple, so that they are not registered a second time
        self.index = index

    @property
    def network(self) -> nn.Module:
        return self._parts[0]

    @property
    def decoder(self) -> nn.Module:
        return self._parts[1]

    def run_layer(
        self, content: Tensor, reference: Tensor, arguments: Mapping[str, Any], **positions: Tensor
    ) -> Tensor:
        """``(B, G, Q, C)`` content and ``(B, G, Q, L, 4)`` references -> ``(B, G, Q, C)``."""
        layer = self.decoder.layers[self.index]
        with _groups_apart(layer.self_attn, content.shape[1]):
            x = layer(
                fold_groups_into_queries(content),
                reference_points=fold_groups_into_queries(reference),
                **{name: fold_groups_into_queries(x) for name, x in positions.items()},
                **arguments,
            )
        return x.view(content.shape)

    def start(self, content: Tensor, reference: Tensor) -> QueryState:
        """The state before the first stage, from their decoder's inputs ``(B, Q, C)`` and ``(B, Q, 4)``."""
        return QueryState(content[:, None], reference.sigmoid()[:, None])

    def outputs(self, predictions: Sequence[StagePrediction]) -> dict[str, Tensor]:
        """What their decoder returns, every set of ours as a layer of theirs, the inference chain's last set last."""
        return {
            "intermediate_logits": torch.cat([p.logits for p in predictions], dim=1),
            "intermediate_reference_points": torch.cat([p.boxes for p in predictions], dim=1),
        }


class RTDetrStage(TransformersStage):
    """RT-DETR and RT-DETRv2 (Zhao et al., CVPR 2024; Lv et al., 2024)."""

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        reference, decoder = state.reference, self.decoder
        x = self.run_layer(
            state.content,
            reference[..., None, :],
            memory.memory,
            object_queries_position_embeddings=decoder.query_pos_head(reference),
        )
        boxes = refine_boxes(decoder.bbox_embed[self.index](x), reference)
        return QueryState(x, boxes.detach()), StagePrediction(decoder.class_embed[self.index](x), boxes)


class DFineStage(TransformersStage):
    """D-FINE and DEIMv2 (Peng et al., ICLR 2025; Huang et al., 2025): a box's sides are distributions, refined.

    Their first layer also predicts the box that later layers refine the sides of. Here this is the first stage of each
    group's path, so a group that skips the first layer (path ``0-2``) has such a box too.
    """

    def __init__(self, network: nn.Module, index: int):
        super().__init__(network, index)
        if self.decoder.eval_idx != len(self.decoder.layers) - 1:
            raise UserError(
                f"eval_idx={network.config.eval_idx}: recollection needs the last of the {len(self.decoder.layers)} "
                "decoder layers to be the one that is evaluated; set eval_idx=-1"
            )

    def start(self, content: Tensor, reference: Tensor) -> QueryState:
        state = super().start(content, reference)
        sides = content.new_zeros(*state.content.shape[:3], self.decoder.bbox_embed[0].layers[-1].out_features)
        logits = content.new_zeros(*state.content.shape[:3], self.network.config.num_labels)
        zeros = torch.zeros_like(state.reference)
        extras = {"sides": sides, "output": torch.zeros_like(state.content), "first": zeros}
        return QueryState(state.content, state.reference, {**extras, "logits": logits, "boxes": zeros})

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        reference, decoder, extras = state.reference, self.decoder, state.extras
        position = decoder.query_pos_head(reference).clamp(min=-10, max=10)
        arguments = {k: v for k, v in memory.memory.items() if k != "level_start_index"}
        x = self.run_layer(state.content, reference[..., None, :], arguments, position_embeddings=position)
        sides = decoder.bbox_embed[self.index](x + extras["output"]) + extras["sides"]
        scores = decoder.class_embed[self.index](x)
        # of a group's first stage; zero extents mean that there was none
        new = is_point(extras["first"])
        first_boxes = refine_boxes(decoder.pre_bbox_head(x), reference)
        first = torch.where(new, first_boxes.detach(), extras["first"])
        before = {
            "logits": torch.where(new, scores, extras["logits"]),
            "boxes": torch.where(new, first_boxes, extras["boxes"]),
        }
        boxes = self._boxes(first, sides)
        logits = decoder.lqe_layers[self.index](scores.flatten(1, 2), sides.flatten(1, 2)).view(scores.shape)
        handed_on = {"sides": sides, "output": x.detach(), "first": first, "logits": logits, "boxes": boxes}
        shown = {"sides": sides, "first": first, **{f"{k}_before": v for k, v in before.items()}}
        return QueryState(x, boxes.detach(), handed_on), StagePrediction(logits, boxes, shown)

    def _boxes(self, first: Tensor, sides: Tensor) -> Tensor:
        """Boxes from the distributions of their sides' distances, by the functions of the decoder's own module."""
        decoder = self.decoder
        theirs = _module_of(decoder)
        project = theirs.weighting_function(decoder.max_num_bins, decoder.up, decoder.reg_scale)
        distances = decoder.integral(sides.flatten(1, 2), project)
        return theirs.distance2bbox(first.flatten(1, 2), distances, decoder.reg_scale).view(first.shape)

    def outputs(self, predictions: Sequence[StagePrediction]) -> dict[str, Tensor]:
        """As :meth:`TransformersStage.outputs`.

        Their loss pairs the distributions of a layer with the scores and boxes of the layer before (of the first box in
        the first layer) and trains the last layer's scores separately. Likewise here: every set's distributions are
        paired with the prediction that its group came with, followed by the last step's predictions, the chain's last.
        """

        def joint(values: Sequence[Tensor]) -> list[Tensor]:
            return list(torch.cat(list(values), dim=1).split(1, dim=1))

        last = predictions[-1]
        sides = joint(p.extras["sides"] for p in predictions)
        firsts = joint(p.extras["first"] for p in predictions)
        recollected = last.logits.shape[1] - 1
        result = {
            "intermediate_predicted_corners": [*sides[:-1], *sides[-1 - recollected : -1], sides[-1]],
            "initial_reference_points": [*firsts[:-1], *firsts[-1 - recollected : -1], firsts[-1]],
        }
        for name, key in (("intermediate_logits", "logits"), ("intermediate_reference_points", "boxes")):
            before = joint(p.extras[f"{key}_before"] for p in predictions)
            own = joint([getattr(last, key)])
            result[name] = [*before[:-1], *own[:-1], before[-1], own[-1]]
        return {name: torch.cat(values, dim=1) for name, values in result.items()}


class LwDetrStage(TransformersStage):
    """LW-DETR and RF-DETR (Chen et al., 2024; Robinson et al., 2025): references stay, all layers share the heads.

    In training a group contains their 13 groups of Group DETR, which their attention keeps separate.
    """

    def start(self, content: Tensor, reference: Tensor) -> QueryState:
        return QueryState(content[:, None], reference[:, None])  # boxes, not their logits

    def forward(self, state: QueryState, memory: PreparedMemory) -> tuple[QueryState, StagePrediction]:
        arguments = dict(memory.memory)
        ratios = arguments.pop("valid_ratios")
        decoder, network = self.decoder, self.network
        b, g, q, _ = state.content.shape
        levels, position = decoder.get_reference(state.reference.view(b, g * q, -1), ratios)
        x = self.run_layer(
            state.content,
            levels.unflatten(1, (g, q)),
            arguments,
            position_embeddings=position.unflatten(1, (g, q)),
        )
        output = decoder.layernorm(x)
        boxes = _module_of(network).refine_bboxes(state.reference, network.bbox_embed(output))
        shown = {"output": output, "reference": state.reference}
        return QueryState(x, state.reference), StagePrediction(network.class_embed(output), boxes, shown)

    def outputs(self, predictions: Sequence[StagePrediction]) -> dict[str, Tensor]:
        hidden = torch.cat([p.extras["output"] for p in predictions], dim=1).transpose(0, 1)
        return {
            "intermediate_hidden_states": hidden,
            "last_hidden_state": hidden[-1],
            "intermediate_reference_points": predictions[-1].extras["reference"][None, :, 0],
        }


FAMILIES = {
    "rt_detr": RTDetrStage,
    "rt_detr_v2": RTDetrStage,
    "d_fine": DFineStage,
    "deimv2": DFineStage,
    "lw_detr": LwDetrStage,
    "rf_detr": LwDetrStage,
}
"""``model_type`` of a config to the stages of its decoder."""


@contextmanager
def _groups_apart(attention: nn.Module, groups: int) -> Iterator[None]:
    """Make a self-attention that receives ``(B, G * Q, C)`` run on ``(B * G, Q, C)``."""
    if groups == 1:
        yield
        return

    def fold(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim != 3:
            return x  # the mask is the same in every group
        return fold_groups_into_batch(x.unflatten(1, (groups, -1)))

    def before(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return tuple(map(fold, args)), {name: fold(x) for name, x in kwargs.items()}

    def after(_: nn.Module, args: tuple, result: tuple) -> tuple:
        return (result[0].unflatten(0, (-1, groups)).flatten(1, 2), *result[1:])

    handles = attention.register_forward_pre_hook(before, with_kwargs=True), attention.register_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _module_of(instance: object) -> Any:
    """The Python module that defines an object's class."""
    return import_module(type(instance).__module__)
