"""Break the core on purpose and see whether its tests notice.

    python dev/mutate.py --count 100 --seed 0

draws mutants (an operator, a constant, a condition, a statement left out) from the core's files, runs for each the fast
tests of its file, and prints those that survive, with their line. A survivor is a missing test, or code without effect.
Exit code 1 if there are survivors. Every mutant is a fork of a process that has imported PyTorch, so it costs its tests
only; the checkout stays as it is.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import detectron2.modeling  # noqa: F401  (imported once for all forks)
import pytest
import scipy.optimize  # noqa: F401
import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "projects" / "SQR" / "sqr"

DEFORMABLE = ["tests/golden/test_sqr_deformable.py", "tests/golden/test_full_deformable_detr.py"]
DENSE = ["tests/golden/test_sqr_dab.py", "tests/golden/test_full_dense.py"]
ADAMIXER = ["tests/detectors/test_detector_adamixer.py", "tests/golden/test_adamixer.py"]
DECODER = ["tests/test_decoder_memory.py", "tests/test_decoder.py"]
START = ["tests/test_initialisation.py"]
# file or folder: its tests, fastest first
TESTS = {
    "recollection.py": ["tests/test_recollection.py"],
    "targets.py": ["tests/test_criterion.py", "tests/test_matcher.py", "tests/test_meta_arch.py"],
    "matcher.py": ["tests/test_matcher.py"],
    "criterion.py": ["tests/test_criterion.py", "tests/test_hybrid_matching.py"],
    "classification.py": ["tests/test_softmax_classification.py", "tests/test_criterion.py", "tests/test_matcher.py"],
    "boxes.py": ["tests/test_criterion.py", "tests/test_matcher.py", *DEFORMABLE[:1], *DENSE[:1]],
    "structures.py": DECODER,
    "decoder.py": [*DECODER, "tests/test_decoder_compile.py"],
    "layers/adaptive_mixing.py": [*START, *ADAMIXER],
    "layers/attention.py": ["tests/test_attention.py", *DENSE],
    "layers/denoising.py": ["tests/test_denoising.py"],
    "layers/library_backbones.py": ["tests/test_library_backbones.py"],
    "layers/padding.py": ["tests/test_ignore_padding.py", *DENSE[:1]],
    "layers/query_table.py": [*START, "tests/test_group_queries.py", "tests/test_hybrid_matching.py"],
    "layers/repeated.py": [*START, *DECODER],
    "layers": [*START, *DEFORMABLE, *DENSE, "tests/test_meta_arch.py"],
    "detectors/adamixer.py": [*START, *ADAMIXER],
    "detectors/deformable_detr.py": [*START, *DEFORMABLE, *DECODER],
    "detectors/dino.py": [*START, "tests/test_denoising.py", "tests/golden/test_dino.py"],
    "detectors": [*START, *DENSE, *DECODER],
}
COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
           ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}  # fmt: skip
BINARY = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
          ast.Pow: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[""], help="draw from files whose path contains one of these")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for the tests of a mutant")
    args = parser.parse_args()
    torch.set_num_threads(1)
    mutants = [(file, index) for file in files(args.only) for index in range(len(list(mutations(parse(file)))))]
    drawn = random.Random(args.seed).sample(mutants, min(args.count, len(mutants)))
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder) / "sqr", ignore=shutil.ignore_patterns("__pycache__"))
        for number, (file, index) in enumerate(drawn, start=1):
            tree = parse(file)
            line, what, apply = list(mutations(tree))[index]
            apply()
            target = Path(folder) / "sqr" / file
            target.write_text(ast.unparse(tree))
            start = time.monotonic()
            noticed = run_tests(folder, tests_of(file), args.timeout)
            shutil.copy(PACKAGE / file, target)
            survivors += not noticed
            verdict = "noticed " if noticed else "SURVIVED"
            print(f"{number:4} {verdict} {time.monotonic() - start:5.0f} s  {file}:{line}  {what}", flush=True)
    print(f"{survivors} of {len(drawn)} mutants survived (seed {args.seed}, {len(mutants)} possible)")
    return int(survivors > 0)


def files(only: Sequence[str]) -> Iterator[str]:
    for place in sorted({name.split("/")[0] for name in TESTS}):
        paths = [PACKAGE / place] if place.endswith(".py") else sorted((PACKAGE / place).glob("*.py"))
        names = (str(path.relative_to(PACKAGE)) for path in paths if path.name != "__init__.py")
        yield from (name for name in names if any(part in name for part in only))


def tests_of(file: str) -> list[str]:
    return TESTS.get(file) or TESTS[file.split("/")[0]]


def parse(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text())


def mutations(tree: ast.Module) -> Iterator[tuple[int, str, Callable[[], None]]]:
    """Line, description and the change in place of every mutation, in a fixed order."""
    ignored = {id(part) for node in ast.walk(tree) for skipped in _without_effect(node) for part in ast.walk(skipped)}
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARE:
            yield _change(node, "ops", [COMPARE[type(node.ops[0])](), *node.ops[1:]])
        elif isinstance(node, ast.BinOp) and type(node.op) in BINARY:
            yield _change(node, "op", BINARY[type(node.op)]())
        elif isinstance(node, ast.BoolOp):
            yield _change(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert, ast.USub)):
            yield _change(node, "op", ast.UAdd() if isinstance(node.op, ast.USub) else _Nothing())
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            yield _change(node, "value", not node.value if isinstance(node.value, bool) else node.value + 1)
        elif isinstance(node, ast.IfExp):
            yield _change(node, "test", ast.Constant(False))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and "super()" not in ast.unparse(node):
            yield _change(node, "value", ast.Constant(None))


class _Nothing(ast.Not):
    """``not x`` and ``~x`` become ``not not x``: the opposite of the negation, as far as conditions go."""


def _without_effect(node: ast.AST) -> Iterator[ast.AST]:
    """Parts that no test has to notice: annotations, messages, defaults that configs spell out."""
    if isinstance(node, ast.AnnAssign) or (isinstance(node, ast.arg) and node.annotation):
        yield node.annotation
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield from ([node.returns] if node.returns else [])
        yield from (default for default in (*node.args.defaults, *node.args.kw_defaults) if default)
    elif isinstance(node, (ast.Raise, ast.JoinedStr)) or (isinstance(node, ast.keyword) and node.arg == "strict"):
        yield node


def _change(node: ast.AST, field: str, value: object) -> tuple[int, str, Callable[[], None]]:
    before, changed = ast.unparse(node), copy.copy(node)
    if isinstance(value, _Nothing):
        value = ast.Not()
        setattr(changed, field, value)
        changed.operand = ast.UnaryOp(ast.Not(), node.operand)
    else:
        setattr(changed, field, value)

    def apply() -> None:
        for name in changed._fields:
            setattr(node, name, getattr(changed, name))

    return node.lineno, f"{before}  ->  {ast.unparse(changed)}", apply


def run_tests(folder: str, tests: list[str], timeout: float) -> bool:
    """Whether the tests fail, or take longer than ``timeout``, with the package in ``folder``."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(ROOT)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(int(pytest.main(["-x", "-p", "no:cacheprovider", "-o", f"pythonpath={folder} tests", *tests])))
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.2)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


if __name__ == "__main__":
    sys.exit(main())
