"""Command line: ``python -m sqr.data.shapes --root DIR`` generates the dataset and prints its folder."""

import argparse

from . import DEFAULT_SETTINGS, ShapesSettings, ensure_shapes


def main() -> None:
    parser = argparse.ArgumentParser(prog="sqr.data.shapes", description="Generate the shapes dataset (COCO format).")
    parser.add_argument("--root", default=None, help="dataset root (default: DETECTRON2_DATASETS, else ./datasets)")
    parser.add_argument(
        "--seed",
        type=int,
        default=DEFAULT_SETTINGS.seed,
        help=f"the registered shapes_train and shapes_val use {DEFAULT_SETTINGS.seed}",
    )
    args = parser.parse_args()
    print(ensure_shapes(args.root, ShapesSettings(seed=args.seed)))


if __name__ == "__main__":
    main()
