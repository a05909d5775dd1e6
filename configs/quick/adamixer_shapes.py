"""A small AdaMixer on the embedded shapes dataset: minutes on two CPU cores.

projects/SQR/train_net.py --config-file quick/adamixer_shapes
"""

from ..common.data.shapes import data, dataloader
from ..common.optim import adamixer_adamw as optimizer
from ..common.schedules import step_80_percent as lr_multiplier
from ..common.train import train
from ..models.adamixer_quick import model

model.num_classes = "${data.num_classes}"
optimizer.lr = 4e-4
lr_multiplier.warmup_iters = 50
train.clip_grad.max_norm = 1.0
train.max_iter = 1500
train.eval_period = 500
train.checkpointer.period = 500
train.output_dir = "output/adamixer_shapes"
