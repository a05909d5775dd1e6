"""Published layouts of detectors with one dense memory: DETR, DAB-DETR, Group DETR.

What all stages share (output norm, heads, DAB-DETR's position networks) is saved once there; here every stage's state
lists it, so the rules give such a tensor one name a stage.
"""

from __future__ import annotations

from .conversion import Layout, Rules, StateDict, indices
from .resnet import resnet_rules


def every_stage(num_stages: int, name: str) -> tuple[str, ...]:
    """The same parameter in every stage; ``name`` may refer to the pattern's groups."""
    return tuple(f"decoder.stages.{stage}.{name}" for stage in range(num_stages))


def _detr(state_dict: StateDict) -> Rules:
    stages = indices(state_dict, r"transformer\.decoder\.layers\.(\d+)\.")
    return [
        *resnet_rules(r"backbone\.0\.body\."),
        (r"input_proj\.(.+)", r"encoder.input_proj.\1"),
        (r"transformer\.encoder\.layers\.(\d+)\.(linear\d\..+)", r"encoder.layers.\1.ffn.\2"),
        (r"transformer\.encoder\.layers\.(\d+)\.(.+)", r"encoder.layers.\1.\2"),
        (r"transformer\.decoder\.layers\.(\d+)\.(linear\d\..+)", r"decoder.stages.\1.ffn.\2"),
        (r"transformer\.decoder\.layers\.(\d+)\.multihead_attn\.(.+)", r"decoder.stages.\1.cross_attn.\2"),
        (r"transformer\.decoder\.layers\.(\d+)\.(.+)", r"decoder.stages.\1.\2"),
        (r"transformer\.decoder\.norm\.(.+)", every_stage(stages, r"norm.\1")),
        (r"((?:class|bbox)_embed)\.(.+)", every_stage(stages, r"\1.\2")),
        (r"(query_embed\.weight)", r"query_generator.\1"),
    ]


DENSE_LAYOUTS = (
    Layout(
        name="detr",
        source="facebookresearch/detr",
        signature=(
            r"transformer\.decoder\.layers\.0\.multihead_attn\.in_proj_weight",
            r"class_embed\.weight",
            r"query_embed\.weight",
        ),
        rules=_detr,
    ),
)
