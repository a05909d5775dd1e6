"""dab_detr_r50_50ep with selective query recollection: 1, 2, 3, 5, 8, 13 groups in training.

detrex's COCO val2017 AP: 44.4 (base 43.3), by its recipe, which is this one. Other than dab_detr_r50_50ep, the official
code's, it trains all of the backbone but the stem, draws anchors uniformly over the image, does not decay the
parameters of norms, leaves images without objects out, groups the others by aspect ratio, and clips boxes to the image.
model.decoder.plan=sequential is the base. One thing differs from detrex: its decoder also attends to padding. The SQR
paper's AP: 44.5 (base 42.2). Not run here.
"""

from .dab_detr_r50_50ep import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.freeze_at = 1
model.query_generator.uniform_centers = True
model.decoder.plan = "selective"
model.postprocessor.clip = True
optimizer.params.weight_decay_norm = 0.0
dataloader.train.dataset.filter_empty = True
dataloader.train.aspect_ratio_grouping = True
train.max_iter = 375000  # rate /10 at 300,000
