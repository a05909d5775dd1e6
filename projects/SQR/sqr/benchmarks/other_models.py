"""The same detectors in Hugging Face ``transformers``, to compare with."""

from __future__ import annotations

from omegaconf import DictConfig
from torch import Tensor, nn

from ..errors import UserError

# depth: (block, blocks a stage, channels of the stages)
_RESNETS = {
    18: ("basic", [2, 2, 2, 2], [64, 128, 256, 512]),
    34: ("basic", [3, 4, 6, 3], [64, 128, 256, 512]),
    50: ("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048]),
    101: ("bottleneck", [3, 4, 23, 3], [256, 512, 1024, 2048]),
}


class NoCounterpartError(UserError):
    """``transformers`` has no counterpart; the message gives the reason for a report."""


def counterpart(cfg: DictConfig) -> nn.Module:
    """``transformers``' model of a config, with random weights and in evaluation mode; nothing is downloaded.

    Args:
        cfg: a complete config of DETR or a form of Deformable DETR, including its number of classes.

    Raises:
        NoCounterpartError: ``transformers`` is not installed, or has no such detector.
    """
    try:
        import transformers
    except ImportError:
        raise NoCounterpartError("not compared: transformers is not installed (pip install transformers)") from None
    model = cfg.model
    stages = _name(model.decoder.stages.get("_target_"))
    if stages not in ("deformable_stages", "detr_stages"):
        raise NoCounterpartError(
            f"not compared: of these detectors transformers has DETR and Deformable DETR; this decoder has {stages}"
        )
    shared = {
        "num_queries": model.query_generator.num_queries,
        "num_labels": model.num_classes,
        "d_model": model.encoder.dim,
        "encoder_layers": model.encoder.layers.get("num_layers", 6),
        "decoder_layers": model.decoder.stages.num_stages,
        "encoder_ffn_dim": model.encoder.layers.get("ffn_dim", 2048),
        "decoder_ffn_dim": model.decoder.stages.get("ffn_dim", 2048),
        "encoder_attention_heads": model.encoder.layers.get("num_heads", 8),
        "decoder_attention_heads": model.decoder.stages.get("num_heads", 8),
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
    }
    if stages == "deformable_stages":
        config = transformers.DeformableDetrConfig(
            **shared,
            backbone_config=_resnet(transformers, model, ["stage2", "stage3", "stage4"]),
            num_feature_levels=model.encoder.num_levels,
            decoder_n_points=model.decoder.stages.num_points,
            encoder_n_points=model.encoder.layers.num_points,
            with_box_refine=model.decoder.stages.get("refine", False),
            two_stage=model.decoder.stages.get("two_stage", False),
            two_stage_num_proposals=model.query_generator.num_queries,
        )
        return transformers.DeformableDetrForObjectDetection(config).eval()
    config = transformers.DetrConfig(**shared, backbone_config=_resnet(transformers, model, ["stage4"]))
    return transformers.DetrForObjectDetection(config).eval()


def run_counterpart(model: nn.Module, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Last stage's logits and boxes of normalised, padded images; the mask is True where padded."""
    output = model(pixel_values=images, pixel_mask=(~padding_mask).long())
    return output.logits, output.pred_boxes


def _resnet(transformers, model: DictConfig, out_features: list[str]):
    stages = model.backbone.get("stages")
    depth = None if not isinstance(stages, DictConfig) else stages.get("depth")
    if depth not in _RESNETS or _name(stages.get("_target_")) != "make_default_stages":
        raise NoCounterpartError(
            "not compared: transformers' counterparts have Detectron2's plain ResNets; this backbone is another one"
        )
    block, depths, channels = _RESNETS[depth]
    return transformers.ResNetConfig(layer_type=block, depths=depths, hidden_sizes=channels, out_features=out_features)


def _name(target: object) -> str:
    return getattr(target, "__name__", None) or str(target).rpartition(".")[2]
