"""The small Deformable DETR with recollection, fine-tuned on your own data on two CPU cores.

    projects/SQR/train_net.py --config-file quick/finetune_sqr_deformable_detr data.root=DIR \
        train.init_checkpoint=output/sqr_deformable_detr_shapes/model_final.pth

The checkpoint can be of any quick Deformable DETR, whatever its classes; from scratch take
quick/sqr_deformable_detr_folder.
"""

from ..common.finetune import finetune, lr_multiplier
from .sqr_deformable_detr_folder import data, dataloader, model, optimizer, train

finetune(
    data=data,
    dataloader=dataloader,
    optimizer=optimizer,
    train=train,
    output_dir="output/finetune_sqr_deformable_detr",
)
optimizer.params.lr_multipliers.backbone = 1.0
train.max_iter = 1000
