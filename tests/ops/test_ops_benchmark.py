"""The operators' benchmark runs, prints and stores what it says."""

import json
import sys

from compilers import ROOT, run

from sqr.benchmarks.timing import interleaved


def test_runs_and_stores_json(tmp_path):
    report = tmp_path / "bench.json"
    tool = ROOT / "projects" / "SQR" / "tools" / "benchmark.py"
    arguments = ["ops", "--cases", "decoder-300", "--threads", "1", "--repeats", "1", "--json", report]
    output = run([sys.executable, tool, *arguments], PYTHONPATH=str(ROOT / "projects" / "SQR"))
    assert output.count("decoder-300") == 2
    rows = json.loads(report.read_text())["results"]
    assert [r["pass"] for r in rows] == ["forward", "forward+backward"]
    assert all(r["speedup"] > 0 and r["share_of_roofline"] > 0 for r in rows)
    assert {"sqr", "reference"} <= set(rows[0]["times"])


def test_interleaved_takes_turns():
    calls = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2, warmup=1)
    assert calls == list("ababab")
    assert set(times) == {"a", "b"}
    assert times["a"]["median_ms"] >= times["a"]["best_ms"] >= 0
