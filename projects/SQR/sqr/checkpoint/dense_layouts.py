"""Published layouts of detectors with one dense memory: DETR, DAB-DETR, Group DETR."""

from __future__ import annotations

from .conversion import Layout, Rules, StateDict, num_stages
from .resnet import DETECTRON2_RESNET, resnet_rules
from .shared import every_stage


def _transformer_rules() -> Rules:
    """Encoder layers, feed-forward blocks and norms as facebookresearch/detr and its descendants name them."""
    return [
        *resnet_rules(r"backbone\.0\.body\."),
        (r"input_proj\.(.+)", r"encoder.input_proj.\1"),
        (r"transformer\.encoder\.(query_scale\..+)", r"encoder.\1"),
        (r"transformer\.encoder\.layers\.(\d+)\.((?:linear\d|activation)\..+)", r"encoder.layers.\1.ffn.\2"),
        (r"transformer\.encoder\.layers\.(\d+)\.(.+)", r"encoder.layers.\1.\2"),
        (r"transformer\.decoder\.layers\.(\d+)\.((?:linear\d|activation)\..+)", r"decoder.stages.\1.ffn.\2"),
        (r"transformer\.decoder\.layers\.(\d+)\.(norm\d\..+)", r"decoder.stages.\1.\2"),
    ]


def _detr(state_dict: StateDict) -> Rules:
    stages = num_stages(state_dict)
    return [
        *_transformer_rules(),
        (r"transformer\.decoder\.layers\.(\d+)\.(self_attn\..+)", r"decoder.stages.\1.\2"),
        (r"transformer\.decoder\.layers\.(\d+)\.multihead_attn\.(.+)", r"decoder.stages.\1.cross_attn.\2"),
        (r"transformer\.decoder\.norm\.(.+)", every_stage(stages, r"norm.\1")),
        (r"((?:class|bbox)_embed)\.(.+)", every_stage(stages, r"\1.\2")),
        (r"(query_embed\.weight)", r"query_generator.\1"),
    ]


_DAB_PROJECTIONS = {
    "qcontent_proj": "query_content_proj",
    "qpos_proj": "query_pos_proj",
    "qpos_sine_proj": "query_pos_sine_proj",
    "kcontent_proj": "key_content_proj",
    "kpos_proj": "key_pos_proj",
    "v_proj": "value_proj",
}


def _dab_detr(state_dict: StateDict) -> Rules:
    stages = num_stages(state_dict)
    return [
        *_transformer_rules(),
        *[
            (rf"transformer\.decoder\.layers\.(\d+)\.{short}_{theirs}\.(.+)", rf"decoder.stages.\1.{attn}.{ours}.\2")
            for short, attn in (("sa", "self_attn"), ("ca", "cross_attn"))
            for theirs, ours in _DAB_PROJECTIONS.items()
        ],
        (r"transformer\.decoder\.layers\.(\d+)\.((?:self|cross)_attn\.out_proj\..+)", r"decoder.stages.\1.\2"),
        *_dab_shared_rules(stages, norm="norm", anchors="refpoint_embed"),
    ]


def _dab_shared_rules(stages: int, *, norm: str, anchors: str) -> Rules:
    return [
        (rf"transformer\.decoder\.{norm}\.(.+)", every_stage(stages, r"norm.\1")),
        (r"transformer\.decoder\.(query_scale\..+)", every_stage(stages, r"\1", first=1)),
        (r"transformer\.decoder\.(ref_(?:point|anchor)_head\..+)", every_stage(stages, r"\1")),
        (r"transformer\.decoder\.bbox_embed\..+", None),  # the heads a second time
        (r"((?:class|bbox)_embed)\.(.+)", every_stage(stages, r"\1.\2")),
        (rf"{anchors}\.weight", r"query_generator.anchors.weight"),
    ]


def _detrex_transformer_rules() -> Rules:
    """Backbone, encoder layers and the decoder layers' feed-forward blocks and norms as detrex names them."""
    rules = [
        *DETECTRON2_RESNET,
        (r"input_proj\.(.+)", r"encoder.input_proj.\1"),
        (r"transformer\.encoder\.(query_scale\..+)", r"encoder.\1"),
        (r"transformer\.encoder\.layers\.(\d+)\.attentions\.0\.attn\.(.+)", r"encoder.layers.\1.self_attn.\2"),
        (r"transformer\.decoder\.layers\.(\d+)\.attentions\.0\.(.+)", r"decoder.stages.\1.self_attn.\2"),
        (r"transformer\.decoder\.layers\.(\d+)\.attentions\.1\.(.+)", r"decoder.stages.\1.cross_attn.\2"),
    ]
    for theirs, ours in (("encoder", "encoder.layers"), ("decoder", "decoder.stages")):
        layer = rf"transformer\.{theirs}\.layers\.(\d+)"
        rules += [
            (layer + r"\.ffns\.0\.layers\.0\.0\.(.+)", rf"{ours}.\1.ffn.linear1.\2"),
            (layer + r"\.ffns\.0\.layers\.1\.(.+)", rf"{ours}.\1.ffn.linear2.\2"),
            (layer + r"\.ffns\.0\.activation\.(.+)", rf"{ours}.\1.ffn.activation.\2"),
            (layer + r"\.ffns\.0\.layers\.0\.1\.(.+)", None),  # the activation a second time
            *[(layer + rf"\.norms\.{i}\.(.+)", rf"{ours}.\1.norm{i + 1}.\2") for i in range(3)],
        ]
    return rules


def _detrex_detr(state_dict: StateDict) -> Rules:
    stages = num_stages(state_dict)
    return [
        (r"transformer\.decoder\.layers\.(\d+)\.attentions\.0\.attn\.(.+)", r"decoder.stages.\1.self_attn.\2"),
        (r"transformer\.decoder\.layers\.(\d+)\.attentions\.1\.attn\.(.+)", r"decoder.stages.\1.cross_attn.\2"),
        *_detrex_transformer_rules(),
        (r"transformer\.decoder\.post_norm_layer\.(.+)", every_stage(stages, r"norm.\1")),
        (r"((?:class|bbox)_embed)\.(.+)", every_stage(stages, r"\1.\2")),
        (r"(query_embed\.weight)", r"query_generator.\1"),
        (r"criterion\..+", None),  # the loss's class weights
    ]


def _detrex_dab_detr(state_dict: StateDict) -> Rules:
    shared = _dab_shared_rules(num_stages(state_dict), norm="post_norm_layer", anchors="anchor_box_embed")
    return [*_detrex_transformer_rules(), *shared]


def _detrex_group_detr(state_dict: StateDict) -> Rules:
    stages = num_stages(state_dict)
    return [
        *_detrex_transformer_rules(),
        (r"transformer\.decoder\.post_norm_layer\.(.+)", every_stage(stages, r"norm.\1")),
        (r"transformer\.decoder\.(query_scale\..+)", every_stage(stages, r"\1", first=1)),
        (r"transformer\.decoder\.(ref_point_head\..+)", r"query_generator.\1"),
        (r"((?:class|bbox)_embed)\.(.+)", every_stage(stages, r"\1.\2")),
        (r"(query_embed\.weight)", r"query_generator.\1"),
    ]


_HEADS_TWICE = (r"(bbox_embed\..+)", r"transformer.decoder.\1")
_ACTIVATIONS_TWICE = (r"(.+\.ffns\.0)\.activation\.(.+)", r"\1.layers.0.1.\2")

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
    Layout(
        name="dab_detr",
        source="IDEA-Research/DAB-DETR",
        signature=(
            r"transformer\.decoder\.layers\.0\.ca_qpos_sine_proj\.weight",
            r"transformer\.decoder\.ref_anchor_head\.layers\.0\.weight",
            r"refpoint_embed\.weight",
        ),
        rules=_dab_detr,
        copies=lambda state_dict: [_HEADS_TWICE],
    ),
    Layout(
        name="detrex_detr",
        source="IDEA-Research/detrex, DETR",
        signature=(
            r"transformer\.decoder\.layers\.0\.attentions\.1\.attn\.in_proj_weight",
            r"class_embed\.weight",
            r"query_embed\.weight",
            r"backbone\.stem\.conv1\.weight",
        ),
        rules=_detrex_detr,
    ),
    Layout(
        name="detrex_dab_detr",
        source="IDEA-Research/detrex, DAB-DETR and SQR-DAB-DETR",
        signature=(
            r"transformer\.decoder\.layers\.0\.attentions\.1\.query_pos_sine_proj\.weight",
            r"transformer\.decoder\.ref_anchor_head\.layers\.0\.weight",
            r"anchor_box_embed\.weight",
        ),
        rules=_detrex_dab_detr,
        copies=lambda state_dict: [_HEADS_TWICE, _ACTIVATIONS_TWICE],
    ),
    Layout(
        name="detrex_group_detr",
        source="IDEA-Research/detrex, Group DETR and Conditional DETR",
        signature=(
            r"transformer\.decoder\.layers\.0\.attentions\.1\.query_pos_sine_proj\.weight",
            r"transformer\.decoder\.post_norm_layer\.weight",
            r"query_embed\.weight",
        ),
        rules=_detrex_group_detr,
        copies=lambda state_dict: [_ACTIVATIONS_TWICE],
    ),
)
