"""The small Deformable DETR on your own data at small image sizes, from scratch, on two CPU cores.

    projects/SQR/train_net.py --config-file quick/deformable_detr_folder data.root=DIR
    projects/SQR/train_net.py --config-file quick/deformable_detr_folder \
        data.train.annotations=DIR/annotations/instances_train.json data.train.images=DIR/train \
        data.val.annotations=DIR/annotations/instances_val.json data.val.images=DIR/val
"""

from ..common.data.folder import data, dataloader
from .deformable_detr_shapes import lr_multiplier, model, optimizer, train

data.min_size_train = [192, 208, 224, 240]
data.min_size_test = 240
data.max_size = 320
data.crop_prob = 0.0
data.color_jitter = 0.2
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = 2
dataloader.test.num_workers = 2
model.query_generator.num_queries = 100
train.output_dir = "output/deformable_detr_folder"
