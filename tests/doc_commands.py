"""The commands of the documentation, found in its fenced blocks, and a place to run them in.

A block of ``bash`` or ``python`` is run unless an HTML comment stands on the line before it:

    <!-- not run: needs COCO -->     never run; its train_net.py commands are still checked against their config
    <!-- slow -->                    run on demand only: SQR_SLOW_DOCS=1

Trainings are cut short by overrides appended to the command, and the datasets are small ones of the same names;
everything else is run to the letter. SQR_SLOW_DOCS=1 takes the commands as they stand, data and all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sqr.data.shapes import DEFAULT_SETTINGS, ShapesSettings, ensure_shapes

ROOT = Path(__file__).resolve().parents[1]
SLOW = os.environ.get("SQR_SLOW_DOCS") == "1"
# appended to every training: two iterations
SHORT = "train.max_iter=2 train.eval_period=0 dataloader.train.total_batch_size=2 dataloader.train.num_workers=0"
_FENCE = re.compile(r"^(?:<!-- (?P<mark>[^\n]*?) -->\n+)?```(?P<language>bash|python)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language and text, and why it is not run (or empty)."""

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def commands(self) -> list[str]:
        """The block's commands, continued lines joined, comments left out."""
        text = re.sub(r"\\\n\s*", "", self.text)
        lines = (re.sub(r"(^|\s)# .*$", "", line).strip() for line in text.splitlines())
        return [line for line in lines if line]

    @property
    def skipped(self) -> str:
        """Why the block is not run now, or an empty string."""
        if self.mark.startswith("not run: "):
            return self.mark.removeprefix("not run: ")
        return "slow; SQR_SLOW_DOCS=1 runs it" if self.mark == "slow" and not SLOW else ""


def blocks(page: Path) -> list[Block]:
    """The runnable blocks of a page, in order."""
    text = page.read_text()
    name = str(page.relative_to(ROOT))
    return [
        Block(name, text.count("\n", 0, m.start()) + 1, m["language"], m["text"], m["mark"] or "")
        for m in _FENCE.finditer(text)
    ]


def shortened(command: str) -> str:
    """A training of two iterations; other commands as they are."""
    trains = ("train_net.py" in command or command.startswith("sqr train")) and "--help" not in command
    trains = trains and "--eval-only" not in command
    if SLOW or not trains:
        return command
    iterations = SHORT.replace("train.max_iter=2 ", "") if "max_epochs" in command else SHORT
    return f"{command} {iterations}"


class Workspace:
    """A folder that looks like a clone of the repository, with small datasets, in which commands are run."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("projects", "configs", "tests", "setup.py", "pyproject.toml", "docs"):
            (folder / name).symlink_to(ROOT / name)
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "projects" / "SQR"),
            "DETECTRON2_DATASETS": str(folder / "datasets"),
            "OMP_NUM_THREADS": "1",
        }
        if not SLOW:
            self._small_datasets()

    def run(self, block: Block) -> None:
        """Run a block; AssertionError with the output where a command fails."""
        if block.language == "python":
            self._run(block, [sys.executable, "-c", block.text])
        else:
            for command in block.commands:
                self._run(block, ["bash", "-c", shortened(command)])

    def _run(self, block: Block, command: list[str]) -> None:
        result = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        said = f"{block.page}:{block.line}\n$ {command[-1]}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        assert result.returncode == 0, f"exit {result.returncode}\n{said}"

    def _small_datasets(self) -> None:
        """The shapes dataset with a few images, and the same images as a user's own in ``mydata``."""
        root = self.folder / "datasets"
        made = ensure_shapes(root, ShapesSettings(train_images=12, val_images=8))
        made.rename(root / DEFAULT_SETTINGS.folder)
        for split, folder in (("train", "train"), ("val", "valid")):
            mine = self.folder / "mydata" / folder
            shutil.copytree(root / DEFAULT_SETTINGS.folder / split, mine)
            annotations = root / DEFAULT_SETTINGS.folder / "annotations" / f"instances_{split}.json"
            shutil.copy(annotations, mine / "_annotations.coco.json")
