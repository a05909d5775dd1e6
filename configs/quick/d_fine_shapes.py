"""A small D-FINE on the embedded shapes dataset: minutes on two CPU cores; needs transformers.

projects/SQR/train_net.py --config-file quick/d_fine_shapes
"""

from ..models.d_fine_quick import model
from .deformable_detr_shapes import data, dataloader, lr_multiplier, optimizer, train

model.num_classes = "${data.num_classes}"
train.output_dir = "output/d_fine_shapes"
