"""DINO, 4 scales, ResNet-50, 12 epochs (Zhang et al., ICLR 2023). Published COCO val2017 AP: 49.0. Not run here.

Batch 16; needs COCO 2017 under $DETECTRON2_DATASETS.

    projects/SQR/train_net.py --config-file dino/dino_r50_12ep --num-gpus 8
"""

from ..common.data.coco import data, dataloader
from ..common.optim import detr_adamw as optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import IMAGENET_R50, train
from ..models.dino_r50 import model

COCO_TRAIN_IMAGES = 118287

model.num_classes = "${data.num_classes}"
lr_multiplier.milestones = [11]
lr_multiplier.warmup_iters = 0
train.init_checkpoint = IMAGENET_R50
train.max_iter = 12 * COCO_TRAIN_IMAGES // 16
