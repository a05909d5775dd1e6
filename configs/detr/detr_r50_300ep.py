"""DETR, ResNet-50, 300 epochs, rate /10 at epoch 200: the official code's default schedule. Not run here.

Batch 64 as in the paper (Carion et al., ECCV 2020); needs COCO 2017 under $DETECTRON2_DATASETS.

    projects/SQR/train_net.py --config-file detr/detr_r50_300ep --num-gpus 16
"""

from ..common.data.coco import data, dataloader
from ..common.optim import detr_adamw as optimizer
from ..common.schedules import step_300ep as lr_multiplier
from ..common.train import IMAGENET_R50, train
from ..models.detr_r50 import model

COCO_TRAIN_IMAGES = 118287

model.num_classes = "${data.num_classes}"
dataloader.train.total_batch_size = 64
train.init_checkpoint = IMAGENET_R50
train.max_iter = 300 * COCO_TRAIN_IMAGES // 64
