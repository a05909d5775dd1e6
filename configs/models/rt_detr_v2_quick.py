"""An RT-DETRv2 of ``transformers`` small enough to train on two CPU cores, from scratch: needs ``transformers``.

Their architecture, narrowed: a residual backbone with one block a stage, 3 levels, 6 decoder layers of 96 channels,
30 queries, images of 128 px.
"""

from detectron2.config import LazyCall as L

from sqr.adapters.transformers import from_transformers

model = L(from_transformers)(
    pretrained=None,  # a directory with config.json and model.safetensors, or a name on the hub, in place of config
    config={
        "model_type": "rt_detr_v2",
        "backbone_config": {
            "model_type": "rt_detr_resnet",
            "embedding_size": 32,
            "hidden_sizes": [32, 64, 96, 128],
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
            "out_features": ["stage2", "stage3", "stage4"],
        },
        "freeze_backbone_batch_norms": False,
        "encoder_hidden_dim": 96,
        "encoder_in_channels": [64, 96, 128],
        "encoder_ffn_dim": 192,
        "encoder_attention_heads": 4,
        "hidden_expansion": 0.5,
        "d_model": 96,
        "decoder_in_channels": [96, 96, 96],
        "decoder_ffn_dim": 192,
        "decoder_attention_heads": 4,
        "decoder_layers": 6,
        "num_queries": 30,
        "num_denoising": 20,
    },
    num_classes=80,
    decoder={
        "plan": "sequential",
        "inference_plan": None,
        "checkpoint_groups": False,
        "max_groups_per_pass": None,
        "compile_stages": False,
    },
    image_size=[128, 128],  # every image is resized to it, as their processor does; null pads instead
    pixel_mean=[0.0, 0.0, 0.0],
    pixel_std=[255.0, 255.0, 255.0],
)
