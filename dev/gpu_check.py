"""The checks of gpu_check.sh: each is a process of its own, and one that fails does not stop the others."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sqr.benchmarks.reporting import describe_machine
from sqr.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "projects" / "SQR"
CONFIG = "quick/sqr_deformable_detr_shapes"
RECIPES = ("deformable_detr/deformable_detr_r50_50ep", "dab_detr/dab_detr_r50_50ep", "adamixer/adamixer_r50_12ep")
LIMIT = 1800  # seconds of a process


class CheckError(Exception):
    """A check has failed; the message says how."""


class Skipped(Exception):
    """A check cannot run here; the message says why."""


@dataclass
class Checks:
    """Runs checks and keeps their results.

    Args:
        device: to check.
        output: folder of reports, logs and runs.
        iterations: of the training that is compared with the CPU's.
    """

    device: str
    output: Path
    iterations: int
    results: list[dict] = field(default_factory=list)

    @property
    def dry(self) -> bool:
        return self.device == "cpu"

    def run(self, name: str, check: Callable[[], object]) -> None:
        begin = time.perf_counter()
        try:
            result = {"status": "passed", "found": check()}
        except Skipped as reason:
            result = {"status": "skipped", "found": str(reason)}
        except (CheckError, OSError, RuntimeError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            result = {"status": "FAILED", "found": f"{type(error).__name__}: {error}"}
        self.results.append({"check": name, "seconds": round(time.perf_counter() - begin, 1), **result})
        print(f"{name}: {result['status']} ({self.results[-1]['seconds']} s)", flush=True)
        self.write()

    def process(self, log: str, *command: object, **environment: str) -> str:
        """Run a Python command and return what it printed, which also goes to ``OUTPUT/LOG.log``."""
        result = subprocess.run(
            [sys.executable, *map(str, command)], cwd=ROOT, text=True, timeout=LIMIT,
            env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        write_text(self.output / f"{log}.log", result.stdout)
        if result.returncode:
            raise CheckError(f"status {result.returncode}, see {log}.log: {result.stdout.strip()[-400:]}")
        return result.stdout

    def train(self, name: str, *overrides: str, device: str | None = None, resume: bool = False) -> list[float]:
        """Train the quick SQR model; returns the loss of every iteration."""
        folder = self.output / name
        sizes = ["dataloader.train.total_batch_size=2", "data.min_size_train=[64]", "data.max_size=64"]
        command = [
            TOOLS / "train_net.py", *(["--resume"] if resume else []), "--config-file", CONFIG,
            f"train.output_dir={folder}", f"train.device={device or self.device}", f"train.max_iter={self.iterations}",
            f"train.checkpointer.period={self.iterations // 2}", "train.log_period=1", "train.eval_period=0",
            "dataloader.evaluator=null", "dataloader.train.num_workers=0", *(sizes if self.dry else []), *overrides,
        ]  # fmt: skip
        self.process(name, *command)
        lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        losses = [line["total_loss"] for line in lines if "total_loss" in line]
        if not losses or not all(map(math.isfinite, losses)):
            raise CheckError(f"losses are not finite: {losses[-3:]}")
        return losses

    def benchmark(self, name: str, *arguments: object) -> dict:
        """Run a benchmark; returns its report."""
        report = self.output / f"{name}.json"
        self.process(name, TOOLS / "tools" / "benchmark.py", *arguments, "--device", self.device, "--json", report)
        return json.loads(report.read_text())

    def write(self) -> None:
        machine = describe_machine(self.device)
        write_json(self.output / "gpu_check.json", {"machine": machine, "checks": self.results})
        lines = ["# GPU check", "", *(f"- {key}: {value}" for key, value in machine.items()), ""]
        lines += ["| check | status | s | found |", "|---|---|---|---|"]
        for row in self.results:
            found = json.dumps(row["found"]) if not isinstance(row["found"], str) else row["found"]
            text = found.replace("|", "\\|").replace("\n", " ")
            lines.append(f"| {row['check']} | {row['status']} | {row['seconds']} | {text[:600]} |")
        write_text(self.output / "gpu_check.md", "\n".join(lines) + "\n")


def self_check(c: Checks) -> str:
    return c.process("operators", "-m", "sqr.ops").strip().splitlines()[-1]


def device_tests(c: Checks) -> str:
    """Numbers in four precisions, streams, devices, deterministic mode, host reads: everything marked ``gpu``."""
    where = "tests/ops/test_ops_gpu.py" if c.dry else "tests"
    return c.process("pytest", "-m", "pytest", "-q", "-m", "gpu", where).strip().splitlines()[-1]


def sanitizer(c: Checks, tool: str) -> str:
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise Skipped("compute-sanitizer is not installed")
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "sqr.ops"]
    result = subprocess.run(command, cwd=ROOT, text=True, timeout=LIMIT, capture_output=True)
    write_text(c.output / f"{tool}.log", result.stdout + result.stderr)
    if result.returncode:
        raise CheckError(f"status {result.returncode}, see {tool}.log")
    return result.stdout.strip().splitlines()[-1]


def against_cpu(c: Checks) -> dict:
    """The same training on the device and on the CPU: the first loss agrees, the later ones are alike."""
    here, there = c.train("train"), c.train("train_cpu", device="cpu")
    first, tail = abs(here[0] / there[0] - 1), max(1, len(here) // 4)
    late = sum(here[-tail:]) / sum(there[-tail:]) - 1
    if first > 1e-3 or abs(late) > 0.1:
        raise CheckError(f"the first loss differs by {first:.1e} and the last quarter's mean by {late:+.1%}")
    return {"first loss differs by": first, "last quarter's mean differs by": late, "iterations": len(here)}


def resumed(c: Checks) -> dict:
    """A run resumed from the half-way checkpoint of another ends as that one did."""
    checkpoint = f"model_{c.iterations // 2 - 1:07d}.pth"
    folder = c.output / "resumed"
    folder.mkdir(parents=True)
    shutil.copy(c.output / "train" / checkpoint, folder)
    write_text(folder / "last_checkpoint", checkpoint)
    c.train("resumed", resume=True)
    whole, found = (
        torch.load(c.output / name / "model_final.pth", map_location="cpu", weights_only=True)["model"]
        for name in ("train", "resumed")
    )
    difference = sum((found[key].double() - value.double()).norm() ** 2 for key, value in whole.items()) ** 0.5
    relative = float(difference / sum(value.double().norm() ** 2 for value in whole.values()) ** 0.5)
    if relative > (0 if c.dry else 1e-2):
        raise CheckError(f"the weights differ by {relative:.1e} of their norm")
    return {"weights differ by": relative}


def precision(c: Checks, dtype: str) -> dict:
    if c.dry and dtype == "float16":
        raise Skipped("float16 is trained on GPUs only")
    losses = c.train(dtype, "train.amp.enabled=True", f"train.amp.dtype={dtype}")
    return {"first loss": losses[0], "last loss": losses[-1]}


def compiled(c: Checks) -> dict:
    losses = c.train("compile", "model.decoder.compile_stages=True", *(["train.max_iter=2"] if c.dry else []))
    return {"last loss": losses[-1]}


def memory(c: Checks) -> list[dict]:
    small = ["--size", "64", "64", "--batch", "2", "--objects", "3", "--plans", "selective"] if c.dry else []
    configs = [CONFIG] if c.dry else [CONFIG, *RECIPES]
    found = []
    for number, config in enumerate(configs):
        size = small or ["--size", "480", "640", "--batch", "2", "--objects", "20"]
        report = c.benchmark(f"memory_{number}", "memory", "--config-file", config, "--measure", *size)
        for row in report["rows"]:
            measured = row["measured"]
            error = (row["predicted"] - row["beside"]) / measured - 1 if measured else None
            found.append({"config": config, "plan": row["plan"], "setting": row["setting"], "error": error})
    return found


def operators(c: Checks, dtype: str) -> str:
    cases = ["--cases", "decoder-300", "--repeats", "1", "--threads", "1"] if c.dry else []
    c.benchmark(f"ops_{dtype}", "ops", "--dtype", dtype, *cases)
    return f"ops_{dtype}.json"


def speed(c: Checks, kind: str, config: str) -> str:
    name = f"{kind}_{config.replace('/', '_')}"
    small = {"train": ["--size", "64", "64"], "infer": ["--sizes", "64x64", "--batches", "1"]}[kind]
    arguments = [*small, "--repeats", "1"] if c.dry else []
    if kind == "train":
        arguments += ["--variants", "sequential", "selective", "--parts", "step"] + (
            [] if c.dry else ["--memory", "step"]
        )
    c.benchmark(name, kind, "--config-file", config, *arguments)
    return f"{name}.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=Path("output/gpu_check"))
    parser.add_argument("--iterations", type=int, help="of the compared training; by default 200, on a CPU 2")
    args = parser.parse_args()
    output = args.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    c = Checks(args.device, output, args.iterations or (2 if args.device == "cpu" else 200))
    c.run("operators' self-check", lambda: self_check(c))
    c.run("tests marked gpu", lambda: device_tests(c))
    for tool in ("memcheck", "racecheck"):
        c.run(f"compute-sanitizer {tool}", lambda tool=tool: sanitizer(c, tool))
    c.run("losses against the CPU's", lambda: against_cpu(c))
    c.run("resume", lambda: resumed(c))
    for dtype in ("bfloat16", "float16"):
        c.run(f"training in {dtype}", lambda dtype=dtype: precision(c, dtype))
    c.run("torch.compile", lambda: compiled(c))
    c.run("memory, predicted against measured", lambda: memory(c))
    for dtype in ("float32",) if c.dry else ("float32", "float16", "bfloat16"):
        c.run(f"benchmark ops, {dtype}", lambda dtype=dtype: operators(c, dtype))
    c.run(
        "benchmark loss",
        lambda: bool(c.benchmark("loss", "loss", *(["--sets", "6", "--repeats", "1"] if c.dry else []))),
    )
    for config in [CONFIG] if c.dry else [CONFIG, *RECIPES]:
        for kind in ("train", "infer"):
            c.run(f"benchmark {kind}, {config}", lambda kind=kind, config=config: speed(c, kind, config))
    failed = [row["check"] for row in c.results if row["status"] == "FAILED"]
    print(f"{output / 'gpu_check.md'}: {len(c.results)} checks, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
