"""A small H-Deformable-DETR (hybrid matching) on the embedded shapes dataset: minutes on two CPU cores.

projects/SQR/train_net.py --config-file quick/h_deformable_detr_shapes
"""

from ..models.h_deformable_detr_quick import model
from .deformable_detr_shapes import data, dataloader, lr_multiplier, optimizer, train

model.num_classes = "${data.num_classes}"
train.output_dir = "output/h_deformable_detr_shapes"
