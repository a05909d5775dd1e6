"""The small RT-DETRv2 on your own data at small image sizes, from scratch, on two CPU cores; needs transformers.

projects/SQR/train_net.py --config-file quick/rt_detr_v2_folder data.root=DIR
"""

from ..common.data.small_folder import data, dataloader
from .rt_detr_v2_shapes import lr_multiplier, model, optimizer, train

model.config.num_queries = 100
model.image_size = [320, 320]
train.output_dir = "output/rt_detr_v2_folder"
