"""The small DINO on your own data at small image sizes, from scratch, on two CPU cores.

projects/SQR/train_net.py --config-file quick/dino_folder data.root=DIR
"""

from ..common.data.small_folder import data, dataloader
from .dino_shapes import lr_multiplier, model, optimizer, train

model.query_generator.num_queries = 100
train.output_dir = "output/dino_folder"
