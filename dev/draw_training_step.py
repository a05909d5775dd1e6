#!/usr/bin/env python
"""Draw docs/images/training_step.png, the figure of docs/architecture.md."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "training_step.png"
INK, BLUE, GREY = "#1b1b1b", "#2563ae", "#6b7280"

# x, y, title, file, what leaves the box
BOXES = [
    (0, 3, "settled config", "config/settling.py", ""),
    (1, 3, "trainer", "engine/trainer.py", "batched_inputs"),
    (0, 2, "samples by (seed, position)", "engine/train_loader.py", "image (3, h, w), instances"),
    (1, 2, "normalize, pad, mask", "meta_arch.py", "(B, 3, H, W), mask"),
    (2, 2, "backbone, neck, encoder", "layers/deformable_encoder.py", "memory (B, N, C)"),
    (3, 2, "initial queries", "detectors/deformable_detr.py", "(B, 1, Q, C)"),
    (3, 1, "stage 1 ... 6", "layers/deformable_decoder.py", "(B, G, Q, C), G = 1 2 3 5 8 13"),
    (2, 1, "decoder loop", "decoder.py", "logits (B, G, Q, K), boxes (B, G, Q, 4)"),
    (1, 1, "one assignment per group", "matcher.py", "indices"),
    (0, 1, "losses of 32 sets", "criterion.py", "6 scalars per loss, then backward"),
    (2, 0, "which outputs enter which step", "recollection.py", ""),
]
ARROWS = [(0, 1), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (10, 7)]


def main() -> None:
    figure, axis = plt.subplots(figsize=(11, 5.2), dpi=110)
    width, height = 0.86, 0.56
    for x, y, title, file, leaves in BOXES:
        plan = file == "recollection.py"
        axis.add_patch(
            FancyBboxPatch(
                (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.01,rounding_size=0.05",
                facecolor="#eaf2fb" if plan else "white", edgecolor=BLUE if plan else INK, linewidth=1.1,
            )
        )  # fmt: skip
        axis.text(x, y + 0.12, title, ha="center", va="center", fontsize=9, color=INK)
        axis.text(x, y - 0.03, file, ha="center", va="center", fontsize=7.5, color=BLUE, family="monospace")
        axis.text(x, y - 0.18, leaves, ha="center", va="center", fontsize=7, color=GREY)
    for a, b in ARROWS:
        (x0, y0), (x1, y1) = BOXES[a][:2], BOXES[b][:2]
        across = y0 == y1
        step = (width / 2 + 0.01) * (1 if x1 > x0 else -1) if across else 0
        rise = 0 if across else (height / 2 + 0.02) * (1 if y1 > y0 else -1)
        axis.annotate(
            "", (x1 - step, y1 - rise), (x0 + step, y0 + rise), arrowprops={"arrowstyle": "-|>", "color": INK}
        )
    axis.annotate("", (1, 2.31), (1, 2.69), arrowprops={"arrowstyle": "-|>", "color": INK})
    axis.annotate("", (0.62, 2.85), (0.35, 2.31), arrowprops={"arrowstyle": "-|>", "color": INK})
    axis.set_xlim(-0.5, 3.5)
    axis.set_ylim(-0.35, 3.35)
    axis.axis("off")
    figure.tight_layout()
    figure.savefig(FIGURE)


if __name__ == "__main__":
    main()
