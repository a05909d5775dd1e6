"""Deformable DETR, ResNet-50, 50 epochs (Zhu et al., ICLR 2021). Paper's COCO val2017 AP: 44.5. Not run here.

Published on 8 GPUs with 4 images each; needs COCO 2017 under $DETECTRON2_DATASETS.

    projects/SQR/train_net.py --config-file deformable_detr/deformable_detr_r50_50ep --num-gpus 8
"""

from ..common.data.coco import data, dataloader
from ..common.optim import deformable_adamw as optimizer
from ..common.schedules import step_50ep as lr_multiplier
from ..common.train import IMAGENET_R50, train
from ..models.deformable_detr_r50 import model

COCO_TRAIN_IMAGES = 118287

model.num_classes = "${data.num_classes}"
dataloader.train.total_batch_size = 32
train.init_checkpoint = IMAGENET_R50
train.max_iter = 50 * COCO_TRAIN_IMAGES // 32
