"""A small Group DETR on the embedded shapes dataset: minutes on two CPU cores.

projects/SQR/train_net.py --config-file quick/group_detr_shapes
"""

from ..common.optim import detr_adamw as optimizer
from ..common.quick import data, dataloader, lr_multiplier, train
from ..models.group_detr_quick import model

model.num_classes = "${data.num_classes}"
optimizer.lr = 4e-4
optimizer.params.lr_multipliers = {"backbone": 3.0}  # the backbone is from scratch
train.output_dir = "output/group_detr_shapes"
