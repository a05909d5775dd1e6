"""The small DAB-DETR on your own COCO-format data at small image sizes, on two CPU cores.

    projects/SQR/train_net.py --config-file quick/dab_detr_folder data.root=DIR \
        train.init_checkpoint=zoo://quick/sqr_deformable_detr_shapes 'train.init_modules=[backbone]'

The second line starts from the backbone of a small detector that comes with the package; without it, the backbone
learns from scratch, much more slowly.
"""

from ..common.data.small_folder import data, dataloader
from .dab_detr_shapes import lr_multiplier, model, optimizer, train

model.query_generator.num_queries = 100
train.output_dir = "output/dab_detr_folder"
