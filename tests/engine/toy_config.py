"""A training config on the toys, made of the shipped common parts."""

from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.data import build_detection_test_loader

from engine_toys import ToyDetector, ToyEvaluator, ToyMapper, toy_dicts
from sqr.engine import build_train_loader

train = LazyConfig.load_rel("../../configs/common/train.py", "train")
optimizer = LazyConfig.load_rel("../../configs/common/optim.py", "deformable_adamw")
lr_multiplier = LazyConfig.load_rel("../../configs/common/schedules.py", "step_80_percent")

model = L(ToyDetector)()
dataloader = {
    "train": L(build_train_loader)(dataset=L(toy_dicts)(), mapper=L(ToyMapper)(), total_batch_size=4, num_workers=0),
    "test": L(build_detection_test_loader)(dataset=L(toy_dicts)(size=5), mapper=L(ToyMapper)()),
    "evaluator": L(ToyEvaluator)(),
}

optimizer.params.lr_multipliers = {"backbone": 0.1, "sampling_offsets": 0.1}
train.update(max_iter=12, log_period=3, eval_period=4, device="cpu")
train.checkpointer.period = 5
