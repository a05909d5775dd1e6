"""The small Deformable DETR with recollection, fine-tuned on your own data on two CPU cores.

    projects/SQR/train_net.py --config-file quick/finetune_sqr_deformable_detr data.root=DIR

It starts from the model zoo's checkpoint, trained on the embedded shapes; train.init_checkpoint=FILE starts from that
of any quick Deformable DETR, whatever its classes. From scratch: quick/sqr_deformable_detr_folder.
"""

from ..common.finetune import finetune, lr_multiplier
from .sqr_deformable_detr_folder import data, dataloader, model, optimizer, train

finetune(
    model=model,
    data=data,
    dataloader=dataloader,
    optimizer=optimizer,
    train=train,
    output_dir="output/finetune_sqr_deformable_detr",
)
optimizer.params.lr_multipliers.backbone = 1.0
train.max_iter = 1000
train.init_checkpoint = "zoo://quick/sqr_deformable_detr_shapes"
