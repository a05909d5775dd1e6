"""What fine-tuning on your own data changes in a recipe.

The data by ``data.root``, small batches, a short schedule, and predictions that do not depend on an image's batch.

Half the recipe's rate at batches of 4, /10 at 80 % of 3,000 iterations: a starting point for some hundreds of images,
not a tuned one.
"""

from .schedules import step_80_percent as lr_multiplier

lr_multiplier.warmup_iters = 100


def finetune(model, data, dataloader, optimizer, train, *, output_dir):
    """Turn a recipe's parts into those of fine-tuning, in place."""
    model.ignore_padding = True
    model.size_divisibility = model.size_divisibility or 64  # the coarsest stride of four levels
    data.train.name = None
    data.val.name = None
    data.num_classes = None
    data.color_jitter = 0.2
    dataloader.train.dataset.filter_empty = False  # on your own data, images without objects count
    dataloader.train.total_batch_size = 4
    optimizer.lr = optimizer.lr / 2
    train.max_iter = 3000
    train.eval_period = 500
    train.checkpointer.period = 500
    train.output_dir = output_dir
