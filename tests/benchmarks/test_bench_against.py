"""``--against``: two checkouts in turn, and the ratio of their medians."""

import subprocess

import pytest

from sqr.benchmarks import against
from sqr.cli.benchmark import _without_comparison
from sqr.errors import UsageError, UserError

STUB = """
import json, sys
assert sys.argv[1:3] == ["loss", "--json"]
print("measured")
open(sys.argv[3], "w").write(json.dumps({{
    "machine": {{"cpu_ms_of_nothing": 1}},
    "results": [{{"case": "focal", "sets": 6, "times": {{"ours": {{"cpu_ms": {ms}, "median_ms": 99}}}}}}],
    "step": {{"plain": {{"total": {{"median_ms": 4}}}}}},
}}))
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Two commits whose benchmark reports 30 and then 10 milliseconds."""
    root = tmp_path / "repository"
    tool = root / "projects/SQR/tools/benchmark.py"
    tool.parent.mkdir(parents=True)
    (root / "projects/SQR/sqr/ops").mkdir(parents=True)
    (root / "projects/SQR/sqr/_C.abi3.so").write_text("library")
    (root / "projects/SQR/sqr/__init__.py").touch()
    (root / ".gitignore").write_text("*.so\n")

    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    for milliseconds in (30, 10):
        tool.write_text(STUB.format(ms=milliseconds))
        git("add", "-A")
        git("commit", "-qm", str(milliseconds))
    monkeypatch.setattr(against, "ROOT", root)
    return root


def test_old_over_new(repository, capsys):
    report = against.compare("HEAD~1", ["loss", "--sets", "6"], rounds=2)
    assert report["rows"][0] == {"": "focal 6 ours", "old, ms": 30, "new, ms": 10, "old / new": 3}
    assert report["rows"][1] == {"": "step plain total", "old, ms": 4, "new, ms": 4, "old / new": 1}
    assert len(report["rows"]) == 2 and len(report["times"]["focal 6 ours"]["old"]) == 2
    assert "3.000" in capsys.readouterr().out
    listed = subprocess.run(["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1  # the other checkout is gone


def test_errors(repository):
    with pytest.raises(UsageError, match="--rounds 0"):
        against.compare("HEAD", [], rounds=0)
    with pytest.raises(UsageError, match="--against: git worktree"):
        against.compare("no-such-commit", ["loss"], rounds=1)
    (repository / "projects/SQR/tools/benchmark.py").write_text("import sys; sys.exit('error: no such config')")
    with pytest.raises(UserError, match="no such config"):
        against.compare("HEAD", ["loss"], rounds=1)


def test_the_command_line_is_passed_on_without_its_own_options():
    given = ["loss", "--sets", "6", "32", "--against", "HEAD", "--rounds=2", "--json", "x.json", "--threads", "1"]
    assert _without_comparison(given) == ["loss", "--sets", "6", "32", "--threads", "1"]
