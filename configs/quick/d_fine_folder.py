"""The small D-FINE on your own data at small image sizes, from scratch, on two CPU cores; needs transformers.

projects/SQR/train_net.py --config-file quick/d_fine_folder data.root=DIR
"""

from ..common.data.small_folder import data, dataloader
from .d_fine_shapes import lr_multiplier, model, optimizer, train

model.config.num_queries = 100
model.image_size = [320, 320]
train.output_dir = "output/d_fine_folder"
