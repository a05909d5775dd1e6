"""A small Deformable DETR on the embedded shapes dataset: minutes on two CPU cores.

    projects/SQR/train_net.py --config-file quick/deformable_detr_shapes

Another dataset: data.train.annotations=... data.train.images=... data.val.annotations=... data.val.images=...
"""

from ..common.optim import deformable_adamw as optimizer
from ..common.quick import data, dataloader, lr_multiplier, train
from ..models.deformable_detr_quick import model

model.num_classes = "${data.num_classes}"
optimizer.lr = 8e-4
optimizer.params.lr_multipliers = {"backbone": 3.0, "sampling_offsets": 0.1}  # the backbone is from scratch
train.output_dir = "output/deformable_detr_shapes"
