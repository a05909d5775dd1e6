"""Ratios of old to new: the same benchmark in two checkouts, in turn (``--against COMMIT``)."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import UsageError, UserError
from ..ops.functional import library
from .reporting import print_table

ROOT = Path(__file__).resolve().parents[4]
_PACKAGE = Path("projects", "SQR", "sqr")
_SOURCES = _PACKAGE / "csrc"


def compare(commit: str, arguments: Sequence[str], *, rounds: int) -> dict:
    """Run a benchmark of this checkout and of a commit in turn, and print the medians and their ratios.

    Args:
        commit: a revision that ``git`` understands.
        arguments: of ``benchmark.py``, without ``--json``.
        rounds: runs of each checkout.

    Raises:
        UsageError: this is not a git checkout, there is no such commit, or fewer than one round.
        UserError: a run failed.
    """
    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: at least 1")
    times: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder, "checkout")
        _git("worktree", "add", "--detach", str(other), commit)
        try:
            _provide_operators(other, commit)
            for number in range(rounds):
                for name, root in (("old", other), ("new", ROOT)):
                    print(f"round {number + 1} of {rounds}: {name}", flush=True)
                    for key, milliseconds in _run(root, arguments, Path(folder, "report.json")):
                        times.setdefault(key, {}).setdefault(name, []).append(milliseconds)
        finally:
            _git("worktree", "remove", "--force", str(other))
    rows = []
    for key, found in times.items():
        if len(found) == 2:  # in both checkouts
            old, new = statistics.median(found["old"]), statistics.median(found["new"])
            rows.append({"": key, "old, ms": old, "new, ms": new, "old / new": old / new})
    print_table(f"{_git('rev-parse', '--short', commit)} (old) against this checkout (new), {rounds} runs each", rows)
    return {"commit": _git("rev-parse", commit), "arguments": list(arguments), "times": times, "rows": rows}


def _provide_operators(other: Path, commit: str) -> None:
    """Copy the compiled operators if their sources are the same; build them otherwise."""
    unused = () if library.has_cuda else (f":(exclude){_SOURCES}/cuda", f":(exclude){_SOURCES}/emulation")
    if _git("diff", "--name-only", commit, "--", str(_SOURCES), *unused):
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        subprocess.run(command, cwd=other, check=True, stdout=subprocess.DEVNULL)
        return
    for path in (*(ROOT / _PACKAGE).glob("_C*.so"), ROOT / _PACKAGE / "ops" / "build_info.json"):
        if path.exists():
            shutil.copy(path, other / path.relative_to(ROOT))


def _run(root: Path, arguments: Sequence[str], report: Path) -> list[tuple[str, float]]:
    command = [sys.executable, str(root / "projects/SQR/tools/benchmark.py"), arguments[0], "--json", str(report)]
    environment = {**os.environ, "PYTHONPATH": str(root / "projects/SQR")}
    result = subprocess.run([*command, *arguments[1:]], cwd=root, env=environment, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the benchmark failed in {root}: {last.removeprefix('error: ')}")
    return list(_times(json.loads(report.read_text())))


def _times(report: object, name: str = "") -> Iterator[tuple[str, float]]:
    """Names and milliseconds of all measurements of a report: CPU time where there is one, else wall time."""
    if isinstance(report, list):
        for item in report:
            label = (
                " ".join(str(x) for x in item.values() if isinstance(x, (str, int))) if isinstance(item, dict) else ""
            )
            yield from _times(item, f"{name} {label}")
    elif isinstance(report, dict):
        milliseconds = report.get("cpu_ms", report.get("median_ms"))
        if milliseconds is not None:
            yield name.strip(), milliseconds
        else:
            for key, value in report.items():
                yield from _times(value, name if key in ("results", "times") else f"{name} {key}")


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if result.returncode:
        raise UsageError(f"--against: git {arguments[0]}: {(result.stderr.strip().splitlines() or ['failed'])[-1]}")
    return result.stdout.strip()
