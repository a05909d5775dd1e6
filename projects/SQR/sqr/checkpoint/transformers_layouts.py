"""Names of Hugging Face ``transformers``: DETR, DAB-DETR and Deformable DETR (all three forms).

Files on the hub, and files that ``save_pretrained`` writes in version 4 or 5, have the names of version 4; models of
version 5 have renamed a few modules (``out_proj`` to ``o_proj``, ``fc1`` to ``mlp.fc1``). Both can be read; the
former are written. Tied tensors occur once in a ``.safetensors`` file and twice in a state dict; both are accepted.

The backbone is timm's ResNet, as in the published files, or ``transformers``' own: two layouts of each detector.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .conversion import Layout, Part, Rules, StateDict, indices, num_stages
from .resnet import resnet_rules
from .shared import every_stage, heads_twice

_BACKBONE = r"model\.backbone\.(?:conv_encoder\.)?model\."
_ENCODER, _DECODER = r"model\.encoder\.layers\.(\d+)\.", r"model\.decoder\.layers\.(\d+)\."
_OUR_ENCODER, _OUR_DECODER = r"encoder.layers.\1.", r"decoder.stages.\1."


def _own_resnet() -> Rules:
    """``transformers``' ResNet."""
    rules: list = [
        (_BACKBONE + r".*num_batches_tracked", None),
        (_BACKBONE + r"embedder\.embedder\.convolution\.(.+)", r"backbone.stem.conv1.\1"),
        (_BACKBONE + r"embedder\.embedder\.normalization\.(.+)", r"backbone.stem.conv1.norm.\1"),
    ]
    for stage in range(4):
        block, ours = _BACKBONE + rf"encoder\.stages\.{stage}\.layers\.(\d+)\.", rf"backbone.res{stage + 2}.\1."
        for theirs, conv in ((r"shortcut\.", "shortcut."), *((rf"layer\.{i}\.", f"conv{i + 1}.") for i in range(3))):
            rules.append((block + theirs + r"convolution\.(.+)", ours + conv + r"\2"))
            rules.append((block + theirs + r"normalization\.(.+)", ours + conv + r"norm.\2"))
    return rules


def _attention(theirs: str, ours: str) -> Rules:
    """Separate projections, which are packed into one here."""
    return [
        *[(theirs + rf"{x}_proj\.(weight|bias)", Part(ours + r"in_proj_\2", i, 3)) for i, x in enumerate("qkv")],
        (theirs + r"out_proj\.(.+)", ours + r"out_proj.\2"),
        (theirs + r"o_proj\.(.+)", ours + r"out_proj.\2"),
    ]


def _feed_forward(theirs: str, ours: str) -> Rules:
    return [(theirs + rf"{mlp}fc{i}\.(.+)", ours + rf"ffn.linear{i}.\2") for mlp in ("", r"mlp\.") for i in (1, 2)]


def _norms(theirs: str, ours: str, *names: str) -> Rules:
    """``names`` are those of ``norm1``, ``norm2``, ..."""
    return [(theirs + rf"{name}\.(.+)", ours + rf"norm{i}.\2") for i, name in enumerate(names, start=1)]


def _dense_encoder() -> Rules:
    return [
        (r"model\.input_projection\.(.+)", r"encoder.input_proj.\1"),
        *_attention(_ENCODER + r"self_attn\.", _OUR_ENCODER + "self_attn."),
        *_feed_forward(_ENCODER, _OUR_ENCODER),
        *_norms(_ENCODER, _OUR_ENCODER, "self_attn_layer_norm", "final_layer_norm"),
    ]


def _detr(state_dict: StateDict) -> Rules:
    stages = num_stages(state_dict)
    return [
        *_dense_encoder(),
        *_attention(_DECODER + r"self_attn\.", _OUR_DECODER + "self_attn."),
        *_attention(_DECODER + r"encoder_attn\.", _OUR_DECODER + "cross_attn."),
        *_feed_forward(_DECODER, _OUR_DECODER),
        *_norms(_DECODER, _OUR_DECODER, "self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
        (r"model\.decoder\.layernorm\.(.+)", every_stage(stages, r"norm.\1")),
        (r"class_labels_classifier\.(.+)", every_stage(stages, r"class_embed.\1")),
        (r"bbox_predictor\.(.+)", every_stage(stages, r"bbox_embed.\1")),
        (r"model\.query_position_embeddings\.weight", r"query_generator.query_embed.weight"),
    ]


def _dab_detr(state_dict: StateDict) -> Rules:
    stages = num_stages(state_dict)
    return [
        *_dense_encoder(),
        (_ENCODER + r"activation_fn\.(.+)", _OUR_ENCODER + r"ffn.activation.\2"),
        (r"model\.encoder\.(query_scale\..+)", r"encoder.\1"),
        *[
            rule
            for kind in ("self", "cross")
            for rule in (
                (_DECODER + rf"{kind}_attn\.{kind}_attn_(\w+_proj)\.(.+)", _OUR_DECODER + rf"{kind}_attn.\2.\3"),
                (
                    _DECODER + rf"{kind}_attn\.{kind}_attn\.output_proj\.(.+)",
                    _OUR_DECODER + rf"{kind}_attn.out_proj.\2",
                ),
            )
        ],
        *_norms(
            _DECODER,
            _OUR_DECODER,
            r"self_attn\.self_attn_layer_norm",
            r"cross_attn\.cross_attn_layer_norm",
            r"mlp\.final_layer_norm",
        ),
        *[(_DECODER + rf"mlp\.fc{i}\.(.+)", _OUR_DECODER + rf"ffn.linear{i}.\2") for i in (1, 2)],
        (_DECODER + r"mlp\.activation_fn\.(.+)", _OUR_DECODER + r"ffn.activation.\2"),
        (r"model\.decoder\.layernorm\.(.+)", every_stage(stages, r"norm.\1")),
        (r"model\.decoder\.(query_scale\..+)", every_stage(stages, r"\1", first=1)),
        (r"model\.decoder\.(ref_(?:point|anchor)_head\..+)", every_stage(stages, r"\1")),
        (r"model\.decoder\.bbox_embed\..+", None),  # the heads a second time
        (r"class_embed\.(.+)", every_stage(stages, r"class_embed.\1")),
        (r"bbox_predictor\.(.+)", every_stage(stages, r"bbox_embed.\1")),
        (r"model\.query_refpoint_embeddings\.weight", r"query_generator.anchors.weight"),
    ]


def _deformable_detr(state_dict: StateDict) -> Rules:
    stages = num_stages(state_dict)
    return [
        (r"model\.level_embed", r"encoder.level_embed"),
        (r"model\.input_proj\.(\d+)\.0\.(.+)", r"encoder.neck.convs.\1.\2"),
        (r"model\.input_proj\.(\d+)\.1\.(.+)", r"encoder.neck.norms.\1.\2"),
        (_ENCODER + r"self_attn\.(.+)", _OUR_ENCODER + r"self_attn.\2"),
        *_feed_forward(_ENCODER, _OUR_ENCODER),
        *_norms(_ENCODER, _OUR_ENCODER, "self_attn_layer_norm", "final_layer_norm"),
        *_attention(_DECODER + r"self_attn\.", _OUR_DECODER + "self_attn."),
        (_DECODER + r"encoder_attn\.(.+)", _OUR_DECODER + r"cross_attn.\2"),
        *_feed_forward(_DECODER, _OUR_DECODER),
        *_norms(_DECODER, _OUR_DECODER, "encoder_attn_layer_norm", "self_attn_layer_norm", "final_layer_norm"),
        *_deformable_heads(state_dict, "class", stages),
        *_deformable_heads(state_dict, "bbox", stages),
        (r"model\.query_position_embeddings\.weight", r"query_generator.query_embed.weight"),
        (r"model\.((?:reference_points|(?:enc_output|pos_trans)(?:_norm)?)\..+)", r"query_generator.\1"),
    ]


def _deformable_heads(state_dict: StateDict, kind: str, stages: int) -> Rules:
    """The heads of one kind, of which tied ones may occur once.

    They are at the top level and, with box refinement, also under the decoder; a ``.safetensors`` file may have either,
    and only the first of heads that all stages share.
    """
    top, decoder = rf"{kind}_embed\.", rf"model\.decoder\.{kind}_embed\."
    found = {place: indices(state_dict, place + r"(\d+)\.") for place in (top, decoder)}
    place, other = (top, decoder) if found[top] >= found[decoder] else (decoder, top)
    if found[place] == 1 < stages:
        return [(place + r"0\.(.+)", every_stage(stages, rf"{kind}_embed.\1"))]
    return [
        (other + r".+", None),
        (place + rf"{stages}\.(.+)", rf"query_generator.{kind}_embed.\1"),
        (place + r"(\d+)\.(.+)", rf"decoder.stages.\1.{kind}_embed.\2"),
    ]


def _with_backbone(backbone: Rules, rules: Callable[[StateDict], Rules], state_dict: StateDict) -> Rules:
    return [*backbone, *rules(state_dict)]


def _layouts(
    name: str,
    rules: Callable[[StateDict], Rules],
    signature: tuple[str, ...],
    copies: Callable[[StateDict], list[tuple[str, str]]],
    timm: str = "",
) -> list[Layout]:
    """A detector's layouts with either backbone; ``timm`` is where timm's ResNet is inside its wrapper."""
    kinds = (
        ("", "", resnet_rules(_BACKBONE + timm), _BACKBONE + timm + r"layer1\.0\.conv1\.weight"),
        ("_own_resnet", ", its own ResNet", _own_resnet(), _BACKBONE + r"embedder\.embedder\.convolution\.weight"),
    )
    return [
        Layout(
            name=f"transformers_{name}{suffix}",
            source=f"Hugging Face transformers{text}",
            signature=(*signature, backbone_key),
            rules=partial(_with_backbone, backbone, rules),
            copies=copies,
            nesting="",
        )
        for suffix, text, backbone, backbone_key in kinds
    ]


TRANSFORMERS_LAYOUTS = (
    *_layouts(
        "detr",
        _detr,
        (
            r"model\.decoder\.layers\.0\.encoder_attn\.q_proj\.weight",
            r"class_labels_classifier\.weight",
            r"model\.query_position_embeddings\.weight",
        ),
        copies=lambda state_dict: [],
    ),
    *_layouts(
        "dab_detr",
        _dab_detr,
        (
            r"model\.decoder\.layers\.0\.cross_attn\.cross_attn_query_pos_sine_proj\.weight",
            r"model\.decoder\.ref_anchor_head\.layers\.0\.weight",
            r"model\.query_refpoint_embeddings\.weight",
        ),
        copies=lambda state_dict: [(r"bbox_predictor\.(.+)", r"model.decoder.bbox_embed.\1")],
        timm=r"_backbone\.",
    ),
    *_layouts(
        "deformable_detr",
        _deformable_detr,
        (
            r"model\.level_embed",
            r"model\.decoder\.layers\.0\.encoder_attn\.sampling_offsets\.weight",
            r"model\.input_proj\.0\.0\.weight",
        ),
        copies=partial(heads_twice, decoder="model.decoder"),
    ),
)
