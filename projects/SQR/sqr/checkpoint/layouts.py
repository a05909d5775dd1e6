"""The published layouts that can be read. The replacements are this package's names."""

from __future__ import annotations

import re

from .conversion import Layout, Rules, StateDict, indices, num_stages
from .dense_layouts import DENSE_LAYOUTS
from .resnet import DETECTRON2_RESNET, resnet_rules
from .shared import every_stage, heads_twice
from .transformers_layouts import TRANSFORMERS_LAYOUTS


def _deformable_detr(state_dict: StateDict) -> Rules:
    stages = num_stages(state_dict)
    return [
        *resnet_rules(r"backbone\.0\.body\."),
        (r"transformer\.level_embed", r"encoder.level_embed"),
        (r"input_proj\.(\d+)\.0\.(.+)", r"encoder.neck.convs.\1.\2"),
        (r"input_proj\.(\d+)\.1\.(.+)", r"encoder.neck.norms.\1.\2"),
        (r"transformer\.encoder\.layers\.(\d+)\.(linear\d\..+)", r"encoder.layers.\1.ffn.\2"),
        (r"transformer\.encoder\.layers\.(\d+)\.(.+)", r"encoder.layers.\1.\2"),
        (r"transformer\.decoder\.layers\.(\d+)\.(linear\d\..+)", r"decoder.stages.\1.ffn.\2"),
        (r"transformer\.decoder\.layers\.(\d+)\.(.+)", r"decoder.stages.\1.\2"),
        # the refining forms save the decoder's references to the heads a second time
        (r"transformer\.decoder\.(class|bbox)_embed\..+", None),
        (rf"(class|bbox)_embed\.{stages}\.(.+)", r"query_generator.\1_embed.\2"),
        (r"(class|bbox)_embed\.(\d+)\.(.+)", r"decoder.stages.\2.\1_embed.\3"),
        (r"query_embed\.weight", r"query_generator.query_embed.weight"),
        (r"transformer\.((?:reference_points|enc_output|enc_output_norm|pos_trans|pos_trans_norm)\..+)",
         r"query_generator.\1"),
        (r".*total_(?:params|ops)", None),  # left in some files by a FLOP counter
    ]  # fmt: skip


def _dab_deformable_detr(state_dict: StateDict) -> Rules:
    stages = num_stages(state_dict)
    return [
        (r"transformer\.decoder\.(query_scale\..+)", every_stage(stages, r"\1", first=1)),
        (r"transformer\.decoder\.(ref_point_head\..+)", every_stage(stages, r"\1")),
        (r"tgt_embed\.weight", r"query_generator.content.weight"),
        (r"refpoint_embed\.weight", r"query_generator.anchors.weight"),
        *_deformable_detr(state_dict),
    ]


def _dino(state_dict: StateDict) -> Rules:
    return [
        *_dino_decoder(num_stages(state_dict)),
        (r"transformer\.enc_out_(class|bbox)_embed\.(.+)", r"query_generator.\1_embed.\2"),
        *_deformable_detr(state_dict),
    ]


def _detrex_dino(state_dict: StateDict) -> Rules:
    return [*_dino_decoder(num_stages(state_dict)), *_detrex_deformable_detr(state_dict)]


def _dino_decoder(stages: int) -> Rules:
    """The parts of DINO beyond two-stage Deformable DETR."""
    return [
        (r"transformer\.decoder\.((?:norm|ref_point_head)\..+)", every_stage(stages, r"\1")),
        (r"transformer\.tgt_embed\.weight", r"query_generator.content.weight"),
        (r"label_enc\.weight", r"query_generator.denoising.label_embed.weight"),
    ]


def _mmcv_deformable_transformer(prefix: str) -> Rules:
    """Encoder and decoder as mmcv's building blocks name them, under ``prefix``."""
    t = prefix + r"transformer\."
    norm_of = {0: 2, 1: 1, 2: 3}  # mmcv numbers norms in execution order, the official code by its own names
    return [
        (t + r"level_embeds", r"encoder.level_embed"),
        (t + r"encoder\.layers\.(\d+)\.attentions\.0\.(.+)", r"encoder.layers.\1.self_attn.\2"),
        (t + r"encoder\.layers\.(\d+)\.ffns\.0\.layers\.0\.0\.(.+)", r"encoder.layers.\1.ffn.linear1.\2"),
        (t + r"encoder\.layers\.(\d+)\.ffns\.0\.layers\.1\.(.+)", r"encoder.layers.\1.ffn.linear2.\2"),
        (t + r"encoder\.layers\.(\d+)\.norms\.0\.(.+)", r"encoder.layers.\1.norm1.\2"),
        (t + r"encoder\.layers\.(\d+)\.norms\.1\.(.+)", r"encoder.layers.\1.norm2.\2"),
        (t + r"decoder\.layers\.(\d+)\.attentions\.0\.attn\.(.+)", r"decoder.stages.\1.self_attn.\2"),
        (t + r"decoder\.layers\.(\d+)\.attentions\.1\.(.+)", r"decoder.stages.\1.cross_attn.\2"),
        (t + r"decoder\.layers\.(\d+)\.ffns\.0\.layers\.0\.0\.(.+)", r"decoder.stages.\1.ffn.linear1.\2"),
        (t + r"decoder\.layers\.(\d+)\.ffns\.0\.layers\.1\.(.+)", r"decoder.stages.\1.ffn.linear2.\2"),
        *[
            (t + rf"decoder\.layers\.(\d+)\.norms\.{theirs}\.(.+)", rf"decoder.stages.\1.norm{ours}.\2")
            for theirs, ours in norm_of.items()
        ],
        (t + r"((?:reference_points|enc_output|enc_output_norm|pos_trans|pos_trans_norm)\..+)", r"query_generator.\1"),
    ]  # fmt: skip


def _channel_mapper(state_dict: StateDict, norm: str) -> Rules:
    """mmdet's and detrex's neck; ``norm`` is their name of a level's norm."""
    convs = indices(state_dict, r"neck\.convs\.(\d+)\.")
    if not convs:  # our names: the extra level is the one of a 3x3 convolution
        ours = re.compile(r"encoder\.neck\.convs\.\d+\.weight")
        convs = sum(1 for key, tensor in state_dict.items() if ours.fullmatch(key) and tensor.shape[-1] == 1)
    return [
        (r"neck\.convs\.(\d+)\.conv\.(.+)", r"encoder.neck.convs.\1.\2"),
        (rf"neck\.convs\.(\d+)\.{norm}\.(.+)", r"encoder.neck.norms.\1.\2"),
        (r"neck\.extra_convs\.0\.conv\.(.+)", rf"encoder.neck.convs.{convs}.\1"),
        (rf"neck\.extra_convs\.0\.{norm}\.(.+)", rf"encoder.neck.norms.{convs}.\1"),
    ]


def _mmdet_deformable_detr(state_dict: StateDict) -> Rules:
    h = r"(?:bbox_head\.)?"
    return [
        *resnet_rules(r"backbone\."),
        *_channel_mapper(state_dict, "gn"),
        *_mmcv_deformable_transformer(h),
        (h + r"cls_branches\.(\d+)\.(.+)", r"decoder.stages.\1.class_embed.\2"),
        *[
            (h + rf"reg_branches\.(\d+)\.{2 * i}\.(.+)", rf"decoder.stages.\1.bbox_embed.layers.{i}.\2")
            for i in range(3)
        ],
        (h + r"query_embedding\.weight", r"query_generator.query_embed.weight"),
    ]


def _detrex_deformable_detr(state_dict: StateDict) -> Rules:
    stages = num_stages(state_dict)
    return [
        *DETECTRON2_RESNET,
        *_channel_mapper(state_dict, "norm"),
        (r"transformer\.decoder\.(class|bbox)_embed\..+", None),  # the heads a second time
        *_mmcv_deformable_transformer(""),
        (rf"(class|bbox)_embed\.{stages}\.(.+)", r"query_generator.\1_embed.\2"),
        (r"(class|bbox)_embed\.(\d+)\.(.+)", r"decoder.stages.\2.\1_embed.\3"),
        (r"query_embedding\.weight", r"query_generator.query_embed.weight"),
    ]


def _mmdet_adamixer(state_dict: StateDict) -> Rules:
    stage, ours = r"(?:roi_head\.)?bbox_head\.(\d+)\.", r"decoder.stages.\1."
    return [
        *resnet_rules(r"backbone\."),
        (r"neck\.lateral_convs\.(\d+)\.conv\.(.+)", r"encoder.neck.convs.\1.\2"),
        (r"neck\.gn_out\.(.+)", r"encoder.neck.norm.\1"),
        (r"(?:rpn_head\.)?init_proposal_bboxes\.weight", r"query_generator.init_boxes"),
        (r"(?:rpn_head\.)?init_content_features\.weight", r"query_generator.init_content.weight"),
        (stage + r"iof_tau", ours + r"iof_tau"),
        (stage + r"attention\.attn\.(.+)", ours + r"self_attn.\2"),
        (stage + r"attention_norm\.(.+)", ours + r"norm1.\2"),
        (stage + r"sampling_n_mixing\.sampling_offset_generator\.0\.(.+)", ours + r"sampling.offsets.\2"),
        (stage + r"sampling_n_mixing\.adaptive_mixing\.parameter_generator\.0\.(.+)",
         ours + r"mixing.parameter_generator.\2"),
        (stage + r"sampling_n_mixing\.adaptive_mixing\.out_proj\.(.+)", ours + r"mixing.out_proj.\2"),
        (stage + r"sampling_n_mixing\.norm\.(.+)", ours + r"norm2.\2"),
        (stage + r"ffn\.layers\.0\.0\.(.+)", ours + r"ffn.linear1.\2"),
        (stage + r"ffn\.layers\.1\.(.+)", ours + r"ffn.linear2.\2"),
        (stage + r"ffn_norm\.(.+)", ours + r"norm3.\2"),
        (stage + r"cls_fcs\.([01])\.(.+)", ours + r"class_embed.\2.\3"),
        (stage + r"reg_fcs\.([01])\.(.+)", ours + r"bbox_embed.\2.\3"),
        (stage + r"fc_cls\.(.+)", ours + r"class_embed.3.\2"),
        (stage + r"fc_reg\.(.+)", ours + r"bbox_embed.3.\2"),
    ]  # fmt: skip


def _torchvision_resnet(state_dict: StateDict) -> Rules:
    return [*resnet_rules(""), (r"fc\..+", None)]


LAYOUTS = (
    *DENSE_LAYOUTS,
    Layout(
        name="dino",
        source="IDEA-Research/DINO",
        signature=(
            r"transformer\.level_embed",
            r"transformer\.decoder\.layers\.0\.cross_attn\.sampling_offsets\.weight",
            r"transformer\.enc_out_class_embed\.weight",
            r"transformer\.tgt_embed\.weight",
            r"label_enc\.weight",
        ),
        rules=_dino,
        copies=heads_twice,
    ),
    Layout(
        name="detrex_dino",
        source="IDEA-Research/detrex",
        signature=(
            r"transformer\.level_embeds",
            r"transformer\.decoder\.layers\.0\.attentions\.1\.sampling_offsets\.weight",
            r"transformer\.tgt_embed\.weight",
            r"label_enc\.weight",
        ),
        rules=_detrex_dino,
        copies=heads_twice,
    ),
    Layout(
        name="dab_deformable_detr",
        source="IDEA-Research/DAB-DETR, DAB-Deformable-DETR",
        signature=(
            r"transformer\.level_embed",
            r"transformer\.decoder\.layers\.0\.cross_attn\.sampling_offsets\.weight",
            r"class_embed\.0\.weight",
            r"tgt_embed\.weight",
            r"refpoint_embed\.weight",
        ),
        rules=_dab_deformable_detr,
        copies=heads_twice,
    ),
    Layout(
        name="h_deformable_detr",  # the two-stage form with learned content (mixed selection)
        source="HDETR/H-Deformable-DETR",
        signature=(
            r"transformer\.level_embed",
            r"transformer\.decoder\.layers\.0\.cross_attn\.sampling_offsets\.weight",
            r"transformer\.pos_trans\.weight",
            r"query_embed\.weight",
        ),
        rules=_deformable_detr,
        copies=heads_twice,
    ),
    Layout(
        name="deformable_detr",
        source="fundamentalvision/Deformable-DETR",
        signature=(
            r"transformer\.level_embed",
            r"transformer\.decoder\.layers\.0\.cross_attn\.sampling_offsets\.weight",
            r"class_embed\.0\.weight",
        ),
        rules=_deformable_detr,
        copies=heads_twice,
    ),
    Layout(
        name="mmdet_deformable_detr",
        source="open-mmlab/mmdetection 2.x and Fangyi-Chen/SQR",
        signature=(
            r"(?:bbox_head\.)?transformer\.level_embeds",
            r"(?:bbox_head\.)?transformer\.decoder\.layers\.0\.attentions\.1\.sampling_offsets\.weight",
            r"(?:bbox_head\.)?cls_branches\.0\.weight",
        ),
        rules=_mmdet_deformable_detr,
        without_bias=r"encoder\.neck\.convs\.\d+",
        nesting="state_dict",
    ),
    Layout(
        name="detrex_h_deformable_detr",
        source="IDEA-Research/detrex",
        signature=(
            r"transformer\.level_embeds",
            r"transformer\.decoder\.layers\.0\.attentions\.1\.sampling_offsets\.weight",
            r"transformer\.pos_trans\.weight",
            r"query_embedding\.weight",
            r"backbone\.stem\.conv1\.weight",
        ),
        rules=_detrex_deformable_detr,
        copies=heads_twice,
    ),
    Layout(
        name="detrex_deformable_detr",
        source="IDEA-Research/detrex",
        signature=(
            r"transformer\.level_embeds",
            r"transformer\.decoder\.layers\.0\.attentions\.1\.sampling_offsets\.weight",
            r"class_embed\.0\.weight",
            r"neck\.convs\.0\.norm\.weight",
        ),
        rules=_detrex_deformable_detr,
        copies=heads_twice,
    ),
    Layout(
        name="mmdet_adamixer",
        source="MCG-NJU/AdaMixer and Fangyi-Chen/SQR",
        signature=(
            r"(?:roi_head\.)?bbox_head\.0\.iof_tau",
            r"(?:roi_head\.)?bbox_head\.0\.sampling_n_mixing\.adaptive_mixing\.out_proj\.weight",
            r"(?:rpn_head\.)?init_content_features\.weight",
        ),
        rules=_mmdet_adamixer,
        nesting="state_dict",
    ),
    *TRANSFORMERS_LAYOUTS,
    Layout(
        name="torchvision_resnet",
        source="torchvision",
        signature=(r"conv1\.weight", r"bn1\.running_mean", r"layer4\.0\.downsample\.0\.weight"),
        rules=_torchvision_resnet,
    ),
)
