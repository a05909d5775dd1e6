"""A small DINO on the embedded shapes dataset: minutes on two CPU cores.

projects/SQR/train_net.py --config-file quick/dino_shapes
"""

from ..models.dino_quick import model
from .deformable_detr_shapes import data, dataloader, lr_multiplier, optimizer, train

model.num_classes = "${data.num_classes}"
train.output_dir = "output/dino_shapes"
