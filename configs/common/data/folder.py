"""Your own dataset, given by overrides: the folder of a whole one, whose splits and classes follow from it,

    data.root=DIR

or the files of each split in COCO's format:

    data.train.annotations=DIR/annotations/instances_train.json data.train.images=DIR/train
    data.val.annotations=DIR/annotations/instances_val.json     data.val.images=DIR/val

For small images also set the sizes, for small datasets some
colour jitter; coco.py lists every value of ``data``:

    data.min_size_train=[192,224,256] data.min_size_test=256 data.max_size=320 data.color_jitter=0.2
"""

from .coco import data, dataloader

data.train.name = None
data.val.name = None
data.num_classes = None

dataloader.train.total_batch_size = 8
dataloader.test.batch_size = 4
