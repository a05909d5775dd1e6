"""What the quick configs share: the shapes dataset, 1,500 iterations with the rate /10 at 80 %, a narrow detector."""

from .data.shapes import data, dataloader
from .quick_backbone import backbone, one_level_backbone
from .schedules import step_80_percent as lr_multiplier
from .train import train

lr_multiplier.warmup_iters = 50
train.max_iter = 1500
train.eval_period = 500
train.checkpointer.period = 500


def narrow_dense(model, num_queries: int = 30):
    """Narrow a detector with one dense memory: features of stride 8, 1 encoder layer, 96 channels."""
    model.backbone = one_level_backbone
    model.encoder.in_feature = "res3"
    model.encoder.in_channels = 96
    model.encoder.dim = 96
    model.encoder.layers.num_layers = 1
    model.encoder.layers.num_heads = 4
    model.encoder.layers.ffn_dim = 192
    model.encoder.layers.dropout = 0.0
    model.query_generator.num_queries = num_queries
    model.size_divisibility = 8
    model.ignore_padding = True


def narrow_deformable(model):
    """Narrow a detector with a deformable encoder: 3 levels, 1 encoder layer, 96 channels."""
    model.backbone = backbone
    model.encoder.dim = 96
    model.encoder.num_levels = 3
    model.encoder.neck.in_channels = {"res2": 64, "res3": 96, "res4": 128}
    model.size_divisibility = 32
    model.ignore_padding = True
    model.encoder.layers.num_layers = 1
    model.encoder.layers.num_heads = 4
    model.encoder.layers.ffn_dim = 192
    model.encoder.layers.dropout = 0.0
