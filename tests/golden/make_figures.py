"""Samples figures from the full golden files into tests/golden/figures/, for machines that lack those files.

python tests/golden/make_figures.py GOLDEN_FOLDER NAME [NAME ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

FIGURES = Path(__file__).parent / "figures"
SAMPLES = 64


def sample(x: torch.Tensor, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(x.numel(), (SAMPLES,), generator=generator)
    return {
        "shape": list(x.shape),
        "index": index.tolist(),
        "value": [round(v, 7) for v in x.flatten()[index].tolist()],
    }


def main(folder: str, names: list[str]) -> None:
    FIGURES.mkdir(exist_ok=True)
    for name in names:
        data = torch.load(Path(folder) / f"{name}.pt", weights_only=True)
        boxes = "boxes_cxcywh" if "boxes_cxcywh" in data else "boxes_xyxy_abs"
        figures = {
            "source": data["source"],
            "options": data["options"],
            "image_seed": data["image_seed"],
            "sizes": [list(s) for s in data["sizes"]],
            "orig_sizes": [list(s) for s in data["orig_sizes"]],
            "keys": [[k, list(s)] for k, s, _ in data["keys"]],
            "ties": data["ties"],
            "logits": sample(data["logits"], 0),
            boxes: sample(data[boxes], 1),
        }
        if "single_image" in data:  # each image alone: the last stage
            figures["single_image"] = [
                {"logits": sample(one["logits"], 2 * i), "boxes_cxcywh": sample(one["boxes_cxcywh"], 2 * i + 1)}
                for i, one in enumerate(data["single_image"])
            ]
        (FIGURES / f"{name}.json").write_text(json.dumps(figures, separators=(",", ":"), default=str) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
