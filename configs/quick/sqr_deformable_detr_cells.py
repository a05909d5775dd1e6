"""The small SQR Deformable DETR of finetune_sqr_deformable_detr, trained on photographs of blood cells (BCCD, MIT).

    sqr predict photo.jpg --config-file quick/sqr_deformable_detr_cells --output output/cells
    sqr train quick/sqr_deformable_detr_cells data.root=DIR

The trained weights come with the package. The backbone needs timm: ``pip install 'detectron2-sqr[timm]'``.
"""

from ..common.lite0 import use_lite0
from .finetune_sqr_deformable_detr import data, dataloader, lr_multiplier, model, optimizer, train

use_lite0(model=model, optimizer=optimizer)  # also where the pretrained backbone's package is missing
data.class_names = ["RBC", "WBC", "Platelets"]
data.num_classes = 3
train.max_iter = 450
train.output_dir = "output/sqr_deformable_detr_cells"
