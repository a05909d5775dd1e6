"""The embedded shapes dataset, generated on first use, at sizes for a CPU: images of 128 px, batches of 16."""

from .coco import data, dataloader

data.train.name = "shapes_train"
data.val.name = "shapes_val"
data.num_classes = 6
data.min_size_train = [104, 112, 120, 128]
data.min_size_test = 128  # with max_size: the images as they are
data.max_size = 128
data.crop_prob = 0.0

dataloader.train.total_batch_size = 16
dataloader.train.num_workers = 2
dataloader.test.batch_size = 8
dataloader.test.num_workers = 2
