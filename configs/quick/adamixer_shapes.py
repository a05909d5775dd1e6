"""A small AdaMixer on the embedded shapes dataset: minutes on two CPU cores.

projects/SQR/train_net.py --config-file quick/adamixer_shapes
"""

from ..common.optim import adamixer_adamw as optimizer
from ..common.quick import data, dataloader, lr_multiplier, train
from ..models.adamixer_quick import model

model.num_classes = "${data.num_classes}"
optimizer.lr = 4e-4
optimizer.params.lr_multipliers = {"backbone": 3.0}  # the backbone is from scratch
train.clip_grad.max_norm = 1.0
train.output_dir = "output/adamixer_shapes"
