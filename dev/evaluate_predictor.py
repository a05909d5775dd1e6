#!/usr/bin/env python
"""AP of a trained model by how its images come: through ``sqr.Predictor`` one by one, and in batches.

    dev/evaluate_predictor.py CONFIG CHECKPOINT [--batch-sizes 1 2 8] [key=value ...]

Where a model ignores padding (docs/configs.md#padding), the figures agree.
"""

from __future__ import annotations

import argparse

from detectron2.config import instantiate
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

import sqr
from sqr.config import load_run_config
from sqr.engine import evaluate, load_model


def predictor_ap(cfg: DictConfig) -> float:
    """AP in percent of each validation image given to the predictor by its path, all by itself."""
    predictor = sqr.Predictor.from_config(cfg, cfg.train.init_checkpoint, as_evaluated=True)
    evaluator = instantiate(cfg.dataloader.evaluator)
    evaluator.reset()
    for image in instantiate(cfg.dataloader.test.dataset):
        evaluator.process([image], [{"instances": predictor(image["file_name"])}])
    return evaluator.evaluate()["bbox"]["AP"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    setup_logger(name="sqr")
    cfg = load_run_config(args.config, args.overrides, init_checkpoint=args.checkpoint)
    rows = {"Predictor": predictor_ap(cfg)}
    for size in args.batch_sizes:
        overrides = [*args.overrides, f"dataloader.test.batch_size={size}"]
        batched = load_run_config(args.config, overrides, init_checkpoint=args.checkpoint)
        rows[f"batches of {size}"] = evaluate(batched, load_model(batched))["bbox"]["AP"]
    for name, ap in rows.items():
        print(f"{name:<14}{ap:7.3f} AP")


if __name__ == "__main__":
    main()
