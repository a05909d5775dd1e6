"""The commands of the documentation, found in its fenced blocks, and a place to run them in.

A block of ``bash`` or ``python`` is run unless an HTML comment stands on the line before it:

    <!-- not run: needs COCO -->     never run; its train_net.py commands are still checked against their config
    <!-- slow -->                    run on demand only: SQR_SLOW_DOCS=1

Trainings, benchmarks of training and ONNX exports are cut short by arguments appended to the command (``SHORTER``), and
the datasets are small ones of the same names; everything else is run as written. SQR_SLOW_DOCS=1 runs the commands
unchanged, on the full datasets.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from sqr.cli.main import COMMANDS, main
from sqr.data.shapes import DEFAULT_SETTINGS, ShapesSettings, ensure_shapes

ROOT = Path(__file__).resolve().parents[1]
SLOW = os.environ.get("SQR_SLOW_DOCS") == "1"
# appended to every training: two iterations
SHORT = "train.max_iter=2 train.eval_period=0 dataloader.train.total_batch_size=2 dataloader.train.num_workers=0"
# appended to commands that match: fewer variants, fewer stages
SHORTER = {
    r"benchmark\.py train ": "--variants sequential selective",
    r"benchmark\.py memory ": "model.decoder.stages.num_stages=2",
    r"export .*\.onnx": "--opts 'model.decoder.inference_plan={name: sequential, stages: 1}'",
}
# imported once for all commands, beside the commands' own modules
PRELOADED = ("matplotlib.pyplot", "torch.utils.tensorboard", "sqr.detectors.deformable_detr", "sqr.data.transforms")
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
    """A training of two iterations, a benchmark or an export of less; other commands unchanged."""
    for pattern, less in SHORTER.items():
        if not SLOW and re.search(pattern, command):
            return f"{command} {less}"
    trains = ("train_net.py" in command or command.startswith("sqr train")) and "--help" not in command
    trains = trains and "--eval-only" not in command
    if SLOW or not trains:
        return command
    iterations = SHORT.replace("train.max_iter=2 ", "") if "max_epochs" in command else SHORT
    return f"{command} {iterations}"


def run_warm(words: list[str], folder: Path, log: Path) -> None:
    """Run a command of this package: the target of a process that was forked with everything imported."""
    os.chdir(folder)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    if words[0] == "python":
        words = words[1:]
    sys.argv[:] = words
    if words[0] == "-c":
        exec(compile(words[1], "<block>", "exec"), {"__name__": "__main__"})
    elif words[0] == "sqr":
        sys.exit(main())
    else:
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


def is_warm(words: list[str]) -> bool:
    """Whether :func:`run_warm` runs this command as a shell does."""
    if any(sign in word for word in words for sign in "|><;&$*`"):
        return False
    return words[0] == "sqr" or (words[0] == "python" and len(words) > 1 and not words[1].startswith("-"))


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
        self._server = multiprocessing.get_context("forkserver")
        self._server.set_forkserver_preload(
            ["doc_commands", *PRELOADED, *{f"sqr.cli.{module}" for module, *_ in COMMANDS.values()}]
        )
        if not SLOW:
            self._small_datasets()

    def run(self, block: Block) -> None:
        """Run a block; AssertionError with the output where a command fails."""
        if block.language == "python":
            self._run_warm(block, ["python", "-c", block.text])
            return
        for command in map(shortened, block.commands):
            words = shlex.split(command)
            if is_warm(words):
                self._run_warm(block, words)
            else:
                self._run(block, command)

    def _run(self, block: Block, command: str) -> None:
        result = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        self._check(block, command, result.returncode, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}")

    def _run_warm(self, block: Block, words: list[str]) -> None:
        """Without the seconds that importing PyTorch and Detectron2 takes each time."""
        log = self.folder / "command.log"
        process = self._server.Process(target=run_warm, args=(words, self.folder, log))
        with patch.dict(os.environ, self.environment):
            process.start()  # the first one starts the server, with this environment
        process.join()
        self._check(block, shlex.join(words), process.exitcode, log.read_text()[-6000:])

    def _check(self, block: Block, command: str, code: int, output: str) -> None:
        assert code == 0, f"exit {code}\n{block.page}:{block.line}\n$ {command}\n{output}"

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
