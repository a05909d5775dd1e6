"""The small H-Deformable-DETR on your own COCO-format data at small image sizes, from scratch, on two CPU cores.

projects/SQR/train_net.py --config-file quick/h_deformable_detr_folder data.root=DIR
"""

from ..common.data.small_folder import data, dataloader
from .h_deformable_detr_shapes import lr_multiplier, model, optimizer, train

model.query_generator.num_queries = 100
train.output_dir = "output/h_deformable_detr_folder"
