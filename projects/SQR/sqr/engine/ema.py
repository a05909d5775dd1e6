"""The exponential moving average of a model's weights, updated during training and evaluated separately."""

from __future__ import annotations

import logging
import math
from typing import Any

from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..distributed import unwrap
from ..errors import UserError, one_line

logger = logging.getLogger(__name__)


class ModelEMA:
    """PyTorch's ``AveragedModel`` with a decay that warms up.

    After update ``t`` (1, 2, ...) the average is ``d * average + (1 - d) * weights`` with ``d = decay * (1 -
    exp(-t / warmup_iters))``: early on it follows the weights, which still change fast. The first update copies the
    weights. Buffers (BatchNorm's statistics) are copied from the model.

    Args:
        model: on its device, not wrapped; it is copied.
        decay: the final decay of the average. The average spans about ``1 / (1 - decay)`` iterations, which should be
            a small part of the run: 0.9998 is for 50,000 iterations or more, 0.99 for 1,500.
        warmup_iters: how slowly the decay rises; 0 for a constant decay.

    Raises:
        UserError: values out of range.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.9998, warmup_iters: float = 2000):
        if not 0 <= decay < 1:
            raise UserError(f"train.ema.decay={decay}: must be at least 0 and less than 1")
        if not 0 <= warmup_iters < math.inf:
            raise UserError(f"train.ema.warmup_iters={warmup_iters}: must be a number, at least 0")
        self.decay, self.warmup_iters = decay, warmup_iters
        self._averaged = AveragedModel(model).requires_grad_(False).eval()

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights, in evaluation mode."""
        return self._averaged.module

    @property
    def num_updates(self) -> int:
        return int(self._averaged.n_averaged)

    def decay_at(self, update: int) -> float:
        """The decay of an update, counted from 1."""
        rise = 1 - math.exp(-update / self.warmup_iters) if self.warmup_iters else 1.0
        return self.decay * rise

    def update(self, model: nn.Module) -> None:
        """Update the average with the weights after an optimizer step."""
        self._averaged.multi_avg_fn = get_ema_multi_avg_fn(self.decay_at(self.num_updates + 1))
        self._averaged.update_parameters(unwrap(model))

    def state_dict(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates, "model": self.model.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint's average.

        Raises:
            UserError: it is of another model.
        """
        try:
            self.model.load_state_dict(state_dict["model"])
        except (RuntimeError, KeyError) as error:
            raise UserError(f"the checkpoint's EMA weights are of another model: {one_line(error)[:300]}") from error
        self._averaged.n_averaged.fill_(state_dict["num_updates"])


class EMAHook(HookBase):
    """Updates the average after every optimizer step; to be registered before hooks that save or evaluate it."""

    def __init__(self, ema: ModelEMA):
        self._ema = ema

    def after_step(self) -> None:
        with self.trainer.updating():
            self._ema.update(self.trainer.model)
