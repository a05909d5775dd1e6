"""A small Group DETR on the embedded shapes dataset: minutes on two CPU cores.

projects/SQR/train_net.py --config-file quick/group_detr_shapes
"""

from ..common.data.shapes import data, dataloader
from ..common.optim import detr_adamw as optimizer
from ..common.schedules import step_80_percent as lr_multiplier
from ..common.train import train
from ..models.group_detr_quick import model

model.num_classes = "${data.num_classes}"
optimizer.lr = 4e-4
optimizer.params.lr_multipliers = {}  # the backbone is from scratch
lr_multiplier.warmup_iters = 50
train.max_iter = 1500
train.eval_period = 500
train.checkpointer.period = 500
train.output_dir = "output/group_detr_shapes"
