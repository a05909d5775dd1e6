"""DAB-DETR, ResNet-50, 50 epochs (Liu et al., ICLR 2022). Paper's COCO val2017 AP: 42.2 (detrex's: 43.3). Not run here.

Batch 16; needs COCO 2017 under $DETECTRON2_DATASETS.

    projects/SQR/train_net.py --config-file dab_detr/dab_detr_r50_50ep --num-gpus 8
"""

from ..common.data.coco import data, dataloader
from ..common.optim import detr_adamw as optimizer
from ..common.schedules import step_50ep as lr_multiplier
from ..common.train import IMAGENET_R50, train
from ..models.dab_detr_r50 import model

COCO_TRAIN_IMAGES = 118287

model.num_classes = "${data.num_classes}"
train.init_checkpoint = IMAGENET_R50
train.max_iter = 50 * COCO_TRAIN_IMAGES // 16
