"""The small Deformable DETR on your own data at small image sizes, from scratch, on two CPU cores.

    projects/SQR/train_net.py --config-file quick/deformable_detr_folder data.root=DIR
    projects/SQR/train_net.py --config-file quick/deformable_detr_folder \
        data.train.annotations=DIR/annotations/instances_train.json data.train.images=DIR/train \
        data.val.annotations=DIR/annotations/instances_val.json data.val.images=DIR/val
"""

from ..common.data.small_folder import data, dataloader
from .deformable_detr_shapes import lr_multiplier, model, optimizer, train

model.query_generator.num_queries = 100
train.output_dir = "output/deformable_detr_folder"
