"""A small Group DETR on the embedded shapes dataset: minutes on two CPU cores.

    projects/SQR/train_net.py --config-file quick/group_detr_shapes \
        train.init_checkpoint=zoo://quick/sqr_deformable_detr_shapes 'train.init_modules=[backbone]'

The second line starts from a pretrained backbone, as the published models do; without it, the backbone learns from
scratch, much more slowly.
"""

from ..common.optim import detr_adamw as optimizer
from ..common.quick import data, dataloader, lr_multiplier, train
from ..models.group_detr_quick import model

model.num_classes = "${data.num_classes}"
dataloader.train.total_batch_size = 8
optimizer.lr = 4e-4
optimizer.params.lr_multipliers = {}
train.output_dir = "output/group_detr_shapes"
