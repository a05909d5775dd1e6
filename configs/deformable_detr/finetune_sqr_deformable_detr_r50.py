"""Deformable DETR, ResNet-50, with SQR, fine-tuned on your own data. Not run here.

    projects/SQR/train_net.py --config-file deformable_detr/finetune_sqr_deformable_detr_r50 \
        data.root=DIR train.init_checkpoint=FILE

FILE is a checkpoint of plain Deformable DETR,
with or without recollection: new class heads are initialized for other classes, and the log says so. Without it the
backbone starts from ImageNet, and a few hundred images are too few.
"""

from ..common.finetune import finetune, lr_multiplier
from .sqr_deformable_detr_r50_50ep import data, dataloader, model, optimizer, train

finetune(model, data, dataloader, optimizer, train, output_dir="output/finetune_sqr_deformable_detr_r50")
