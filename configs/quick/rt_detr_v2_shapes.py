"""A small RT-DETRv2 on the embedded shapes dataset: minutes on two CPU cores; needs transformers.

projects/SQR/train_net.py --config-file quick/rt_detr_v2_shapes
"""

from ..models.rt_detr_v2_quick import model
from .deformable_detr_shapes import data, dataloader, lr_multiplier, optimizer, train

model.num_classes = "${data.num_classes}"
train.output_dir = "output/rt_detr_v2_shapes"
