"""Evaluation of a model on a config's test data."""

from __future__ import annotations

import logging
import re

from detectron2.config import instantiate
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from ..distributed import unwrap
from ..errors import NonFiniteError, UserError, as_user_error, one_line
from ..evaluation.finite_outputs import FiniteOutputs, require_finite_weights

logger = logging.getLogger(__name__)


def evaluate(cfg: DictConfig, model: nn.Module) -> dict:
    """Evaluate on ``cfg.dataloader.test`` and log Detectron2's tables and copy-paste lines.

    Returns:
        Task to metric to value on the main process; empty on the others, or without a
        ``dataloader.evaluator``.

    Raises:
        NonFiniteError: a weight, a score or a box is not finite.
        UserError: the test data cannot be used, or one of its images cannot be read.
    """
    if cfg.dataloader.get("evaluator") is None:
        logger.info("Nothing to evaluate: the config has no dataloader.evaluator")
        return {}
    with as_user_error(ValueError, OSError, prefix="dataloader.test: "):
        loader = instantiate(cfg.dataloader.test)
        evaluator = instantiate(cfg.dataloader.evaluator)
    require_finite_weights(unwrap(model))
    try:
        results = inference_on_dataset(unwrap(model), loader, [FiniteOutputs(), evaluator])
    except NonFiniteError as error:
        raise NonFiniteError(f"evaluation: {one_line(error)}") from error
    except (UserError, OSError, SyntaxError, SizeMismatchError) as error:
        raise UserError(f"evaluation: {_of_worker(error)}") from error
    if comm.is_main_process() and results:
        print_csv_format(results)
    return results


def _of_worker(error: Exception) -> str:
    """The text of an exception; of a loader worker's traceback, the last line."""
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and lines[0].startswith("Caught "):
        return re.sub(r"^[\w.]+: ", "", lines[-1])
    return one_line(error)
