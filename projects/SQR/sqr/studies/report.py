"""Reports computed from the committed results: tables in Markdown pages between markers.

A page contains the lines ``<!-- study NAME TABLE -->`` and ``<!-- end of study NAME TABLE -->``; the text between them
is written by :func:`update_pages` and compared with the results by :func:`check_pages` (and a test).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from ..errors import UserError
from ..files import write_json, write_text
from .definition import RESULTS, Study
from .results import Result, rounded
from .statistics import arm_estimate, difference

GIGABYTE = 1e9
ResultsOfStudy = Mapping[tuple[str, str, int], Result]


def build_report(study: Study, results: ResultsOfStudy) -> dict:
    """Every number of a study's tables as plain values: by dataset and arm."""
    report: dict = {
        "study": study.name,
        "title": study.title,
        "cells": {"measured": len(results), "planned": sum(1 for _ in study.cells())},
        "commits": sorted({result.commit for result in results.values()}),
        "machines": sorted({result.machine for result in results.values()}),
        "datasets": {},
    }
    for dataset in study.datasets:
        arms = {}
        for arm in study.arms.values():
            found = _by_seed(results, arm.name, dataset)
            if found:
                against = _by_seed(results, arm.versus, dataset) if arm.versus else {}
                compared = difference(against, found) if against else None
                arms[arm.name] = {
                    **_arm_report(found),
                    "versus": arm.versus,
                    "difference": None if compared is None else asdict(compared),
                }
        if arms:
            report["datasets"][dataset] = arms
    return report


def _arm_report(found: Mapping[int, Result]) -> dict:
    names = {name for result in found.values() for name in result.measurement.metrics}
    details = [result.measurement.details for result in found.values()]
    return {
        "AP": asdict(arm_estimate(found)),
        "metrics": {n: _mean(r.measurement.metrics.get(n) for r in found.values()) for n in sorted(names)},
        "stages": _mean_stages([result.measurement.stages for result in found.values()]),
        "images": next(iter(found.values())).measurement.images,
        "sets": details[0].get("sets"),
        "iterations": details[0].get("iterations"),
        "train_cpu_seconds": _mean(d.get("train_cpu_seconds") for d in details),
        "peak_memory": max(d.get("peak_memory", r.peak_memory) for d, r in zip(details, found.values(), strict=True)),
    }


def study_table(study: Study, results: ResultsOfStudy, table: str = "full") -> str:
    """One of the study's tables (:data:`TABLES`) in Markdown, one part per dataset, and its provenance."""
    report = build_report(study, results)
    parts = [f"*{study.title}.*"] if table == "full" else []
    for dataset, arms in report["datasets"].items():
        lines = _stage_table(dataset, arms) if table == "stages" else _dataset_table(study, dataset, arms, table)
        parts.append("\n".join(lines))
    if not report["datasets"]:
        parts.append("Not measured yet.")
    return "\n\n".join([*parts, _source_line(study, report, table)])


def _stage_table(dataset: str, arms: Mapping[str, dict]) -> Iterator[str]:
    """AP by stage, and the oracle's gain and TP fading with their chance levels, means over seeds."""
    stages = max(len(arm["stages"].get("AP", [])) for arm in arms.values())
    rates = [key for key in ("fading@0.5", "fading@0.75") if any(key in arm["stages"] for arm in arms.values())]
    titles = [f"TP fading, IoU {key.partition('@')[2]} (by chance), %" for key in rates]
    head = [f"{dataset}: AP after stage", *map(str, range(1, stages + 1)), "oracle gain (by chance)", *titles]
    yield _line(head)
    yield _line(["---"] * len(head))
    for name, arm in arms.items():
        found = arm["stages"]
        values = found.get("AP", [])
        row = [name, *map(_number, values), *[""] * (stages - len(values))]
        last = values[-1] if values else 0.0
        gains = [None if found.get(k) is None else found[k] - last for k in ("oracle", "oracle_by_chance")]
        row.append(_beside(*gains, "+.1f"))
        row += [_beside(found.get(key), found.get(key.replace("@", "_by_chance@"))) for key in rates]
        yield _line(row)


def _beside(value: float | None, chance: float | None, form: str = ".1f") -> str:
    return _number(value, form) + ("" if chance is None else f" ({chance:{form}})")


def _dataset_table(study: Study, dataset: str, arms: Mapping[str, dict], table: str) -> Iterator[str]:
    short = table == "short"
    images = next(iter(arms.values()))["images"]
    others = [m for m in study.metrics if m != "AP" and any(m in arm["metrics"] for arm in arms.values())]
    timed = any(arm["train_cpu_seconds"] is not None for arm in arms.values())
    head = [f"{dataset} ({images} images)", "AP [95 %]", *([] if short else others)]
    head += ["difference [95 %]", *([] if short else ["detectable", "seeds"])]
    head += ["CPU s of training", "peak, GB"] if timed else []
    yield _line(head)
    yield _line(["---"] * len(head))
    for name, arm in arms.items():
        ap, other = arm["AP"], arm["difference"]
        row = [name, _interval(ap)]
        row += [] if short else [_number(arm["metrics"].get(m)) for m in others]
        row.append("" if other is None else f"{_interval(other, '+.2f')} to {arm['versus']}")
        row += [] if short else ["" if other is None else f"{other['detectable']:.2f}", _seeds(ap["seeds"])]
        row += [_number(arm["train_cpu_seconds"], ".0f"), f"{arm['peak_memory'] / GIGABYTE:.2f}"] if timed else []
        yield _line(row)


def _source_line(study: Study, report: Mapping, table: str) -> str:
    done, planned = report["cells"]["measured"], report["cells"]["planned"]
    state = "complete" if done == planned else f"**{done} of {planned} cells measured so far**"
    command = f"`projects/SQR/tools/study.py run {study.name}`"
    commits = ", ".join(commit[:12] for commit in report["commits"])
    text = f"Study [`{study.name}`](STUDY), {state}, {command}; commits {commits or 'none'}."
    if table != "full":
        return text
    machines = "; ".join(report["machines"])
    note = f" {study.note}" if study.note else ""
    return f"{text} {machines}. Intervals: [method](METHOD).{note}".replace(" .", "")


def write_report(report: Mapping, path: Path) -> Path:
    """Write :func:`build_report`'s numbers as JSON."""
    write_json(path, rounded(report))
    return path


def update_pages(study: Study, results: ResultsOfStudy, root: Path = Path()) -> list[Path]:
    """Write the study's tables into its pages; returns the pages that changed.

    Raises:
        UserError: a page has no markers for a table.
    """
    changed = []
    for page, tables in study.pages.items():
        path = root / page
        text = new = path.read_text()
        for table in tables:
            new = _with_table(new, study, path, table, _linked(study_table(study, results, table), page, study))
        if new != text:
            write_text(path, new)
            changed.append(path)
    return changed


def check_pages(study: Study, results: ResultsOfStudy, root: Path = Path()) -> list[str]:
    """The study's tables that differ from its results; empty if none does."""
    problems = []
    for page, tables in study.pages.items():
        text = (root / page).read_text()
        for table in tables:
            new = _linked(study_table(study, results, table), page, study)
            if _with_table(text, study, root / page, table, new) != text:
                problems.append(
                    f"{page}: the table {table!r} of study {study.name} is not what {RESULTS}/{study.name} says"
                )
    return problems


def _with_table(text: str, study: Study, path: Path, table: str, content: str) -> str:
    begin, end = f"<!-- study {study.name} {table} -->\n", f"<!-- end of study {study.name} {table} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UserError(f"{path}: needs the lines {begin.strip()} and {end} once, in this order")
    return f"{text[: text.index(begin)]}{begin}{content}\n{text[text.index(end) :]}"


def _linked(table: str, page: str, study: Study) -> str:
    up = "../" * (len(Path(page).parts) - 1)
    method = "#method" if page == "docs/evidence.md" else f"{up}docs/evidence.md#method"
    return table.replace("(STUDY)", f"({up}studies/{study.name}.yaml)").replace("(METHOD)", f"({method})")


def _by_seed(results: ResultsOfStudy, arm: str, dataset: str) -> dict[int, Result]:
    return {seed: r for (a, d, seed), r in results.items() if (a, d) == (arm, dataset)}


def _mean(values) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _mean_stages(stages: list[dict]) -> dict:
    found = {}
    for key in sorted({key for one in stages for key in one}):
        values = [one[key] for one in stages if one.get(key) is not None]
        if values and isinstance(values[0], list):
            found[key] = [_mean(column) for column in zip(*values, strict=True)]
        elif values:
            found[key] = _mean(values)
    return found


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str = ".1f") -> str:
    return "" if value is None else f"{value:{form}}"


def _interval(one: Mapping, form: str = ".2f") -> str:
    alone = " images only" if one["seed_error"] is None else ""
    return f"{one['mean']:{form}} [{one['low']:{form}}, {one['high']:{form}}]{alone}"


def _seeds(values: Mapping[int, float]) -> str:
    return " ".join(f"{value:.1f}" for value in values.values())
