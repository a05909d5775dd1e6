"""Any COCO-format dataset, as folder.py, at image sizes for a CPU: edges of 240 and 320 px, batches of 4."""

from .folder import data, dataloader

data.min_size_train = [192, 208, 224, 240]
data.min_size_test = 240
data.max_size = 320
data.crop_prob = 0.0
data.color_jitter = 0.2
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = 2
dataloader.test.num_workers = 2
