"""The small DAB-Deformable-DETR with recollection, fine-tuned on your own data on two CPU cores.

    projects/SQR/train_net.py --config-file quick/finetune_sqr_dab_deformable_detr data.root=DIR

It starts from EfficientNet-Lite0, pretrained on ImageNet (docs/backbones.md).
"""

from ..common.finetune import finetune, lr_multiplier
from ..common.lite0 import start_from_lite0
from .dab_deformable_detr_folder import data, dataloader, model, optimizer, train

finetune(model, data, dataloader, optimizer, train, output_dir="output/finetune_sqr_dab_deformable_detr")
model.decoder.plan = "selective"
train.max_iter = 1000
start_from_lite0(model=model, optimizer=optimizer, train=train)
