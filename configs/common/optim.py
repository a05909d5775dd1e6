"""AdamW as the DETR papers use it: weight decay 1e-4 on everything, smaller steps for some parameters.

``fused``: PyTorch's single-kernel update, the same rule without the temporary copies of the
parameters.
"""

import torch
from detectron2.config import LazyCall as L

from sqr.engine import get_param_groups

# Deformable DETR (Zhu et al., ICLR 2021), and SQR on it: 2e-4; backbone, offsets and reference points x0.1.
deformable_adamw = L(torch.optim.AdamW)(
    params=L(get_param_groups)(
        # model is given by the trainer
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
        lr_multipliers={"backbone": 0.1, "sampling_offsets": 0.1, "reference_points": 0.1},
        layer_decay={},
    ),
    lr=2e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    fused=True,
)

# DETR and DAB-DETR: 1e-4; backbone x0.1.
detr_adamw = L(torch.optim.AdamW)(
    params=L(get_param_groups)(
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
        lr_multipliers={"backbone": 0.1},
        layer_decay={},
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    fused=True,
)

# AdaMixer: 2.5e-5 everywhere.
adamixer_adamw = L(torch.optim.AdamW)(
    params=L(get_param_groups)(
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
        lr_multipliers={},
        layer_decay={},
    ),
    lr=2.5e-5,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    fused=True,
)
