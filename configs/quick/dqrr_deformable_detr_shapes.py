"""quick/deformable_detr_shapes with dense recollection and recurrence, for running only the last stage, in a loop.

    projects/SQR/train_net.py --config-file quick/dqrr_deformable_detr_shapes
    projects/SQR/train_net.py --config-file quick/dqrr_deformable_detr_shapes --eval-only \
        train.init_checkpoint=output/dqrr_deformable_detr_shapes/model_final.pth \
        'model.decoder.inference_plan={name:looped,times:6}'

docs/looped_decoding.md has the whole study.
"""

from .deformable_detr_shapes import data, dataloader, lr_multiplier, model, optimizer, train

model.decoder.plan = "dense_recurrent"
train.output_dir = "output/dqrr_deformable_detr_shapes"
