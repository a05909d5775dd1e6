"""AdaMixer, ResNet-50, 100 queries, 12 epochs (Gao et al., CVPR 2022). Paper's COCO val2017 AP: 42.7. Not run here.

Published on 8 GPUs with 2 images each, images at 800 pixels, flipped; needs COCO 2017 under $DETECTRON2_DATASETS.

    projects/SQR/train_net.py --config-file adamixer/adamixer_r50_12ep --num-gpus 8
"""

from ..common.data.coco import data, dataloader
from ..common.optim import adamixer_adamw as optimizer
from ..common.schedules import step_12ep as lr_multiplier
from ..common.train import IMAGENET_R50, train
from ..models.adamixer_r50 import model

COCO_TRAIN_IMAGES_WITH_OBJECTS = 117266

model.num_classes = "${data.num_classes}"
data.min_size_train = [800]
data.crop_prob = 0.0
dataloader.train.dataset.filter_empty = True  # as published, like the grouping
dataloader.train.aspect_ratio_grouping = True
dataloader.train.total_batch_size = 16
train.init_checkpoint = IMAGENET_R50
train.clip_grad.max_norm = 1.0
train.max_iter = 12 * COCO_TRAIN_IMAGES_WITH_OBJECTS // 16
