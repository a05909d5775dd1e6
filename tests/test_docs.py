"""The documentation's commands work: every block that can be is run, page by page, in the order it is read."""

import json
import shlex

import pytest

from doc_commands import ROOT, Block, Workspace, blocks, shortened
from sqr.config import load_config

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks(page)]
PLACEHOLDERS = ("...", "DIR", "$", "output/")  # of a config: the last is what an earlier command wrote


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("clone"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page, workspace):
    for block in blocks(page):
        if not block.skipped:
            workspace.run(block)


def test_notebook(workspace):
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "train__max_iter=100," in code
    code = code.replace("train__max_iter=100,", "train__max_iter=1, dataloader__train__total_batch_size=2,")
    workspace.run(Block("docs/notebook.ipynb", 1, "python", code, ""))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.skipped], ids=lambda b: f"{b.page}:{b.line}")
def test_trainings_that_are_not_run_fit_their_config(block):
    for command in block.commands:
        words = shlex.split(command)
        if words[:2] == ["sqr", "train"]:
            config = words[2]
        elif any(word.endswith("train_net.py") for word in words) and "--config-file" in words:
            config = words[words.index("--config-file") + 1]
        else:
            continue
        overrides = [word for word in words if "=" in word and not word.startswith("-")]
        if not any(sign in config for sign in PLACEHOLDERS):
            load_config(config, overrides)


def test_blocks_are_marked_one_of_the_known_ways():
    for block in BLOCKS:
        assert not block.mark or block.mark == "slow" or block.mark.startswith("not run: "), (block.page, block.line)
    assert any(b.language == "python" and not b.skipped for b in BLOCKS)
    assert sum(len(b.commands) for b in BLOCKS if b.language == "bash" and not b.skipped) > 10


def test_links_between_pages_lead_somewhere():
    import re

    for page in [*PAGES, *(ROOT / n for n in ("CONTRIBUTING.md", "BENCHMARKS.md", "MODEL_ZOO.md"))]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_only_trainings_benchmarks_and_onnx_exports_are_cut_short():
    assert shortened("python projects/SQR/tools/draw_plan.py sqr") == "python projects/SQR/tools/draw_plan.py sqr"
    assert "train.max_iter=2" in shortened("python projects/SQR/train_net.py --config-file quick/x")
    assert "train.max_iter=2" in shortened("sqr train quick/x") and "max_iter" not in shortened("sqr eval --run x")
    assert shortened("sqr export --output x.pt2") == "sqr export --output x.pt2"
    for command in ("sqr export --output x.onnx", "tools/benchmark.py train --size 1 1", "tools/benchmark.py memory x"):
        assert shortened(command) != command and "max_iter" not in shortened(command)
