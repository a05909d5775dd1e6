"""Summaries as tables: CSV for spreadsheets, aligned text for terminals."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

STAGE_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def summary_rows(summary: Mapping) -> list[tuple[str, str, str, float | int | None]]:
    """A summary in long form: ``(section, item, metric, value)``."""
    rows = []
    for s, metrics in enumerate(summary["stages"], start=1):
        rows += [("ap", f"stage {s}", name, metrics[name]) for name in STAGE_METRICS]
        rows += [
            ("ap by class", f"stage {s}", name, value)
            for name, value in zip(summary["classes"], metrics["per_class"], strict=True)
        ]
    if summary["oracle"] is not None:
        rows += [("ap", "oracle", name, summary["oracle"][name]) for name in ("AP", "AP50", "AP75")]
        rows += _chance_rows("ap", "oracle by chance", "AP", summary["oracle"])
    for rate in summary["rates"]:
        for key in ("fading", "exacerbation", "recoverable_misses"):
            section = f"{key} at IoU {rate['iou']:g}"
            part = rate[key]
            rows += [(section, "all", name, part[name]) for name in ("total", "bad", "rate")]
            rows += _chance_rows(section, "by chance", "rate", part)
            rows += [(section, f"stage {s}", "better", n) for s, n in enumerate(part["by_stage"], start=1)]
            if key == "recoverable_misses":
                continue
            rows += [(section, f"margin under {e}", "share of bad", v) for e, v in part["marginal"].items()]
            for area, counts in part["by_area"].items():
                rows += [(section, area, name, counts[name]) for name in ("total", "bad")]
            for name, counts in zip(summary["classes"], part["by_class"], strict=True):
                rows += [(section, f"class {name}", metric, counts[metric]) for metric in ("total", "bad", "rate")]
    return rows


def _chance_rows(section: str, item: str, metric: str, part: Mapping) -> list[tuple]:
    """The rows of a chance level; none if it was omitted."""
    chance = part.get("chance")
    names = {"mean": metric, "spread": "spread", "excess": "excess"}
    return [(section, item, text, chance[key]) for key, text in names.items()] if chance else []


def write_csv(path: str | Path, summary: Mapping) -> None:
    """Write :func:`summary_rows` with a header line; undefined values are empty cells."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("section", "item", "metric", "value"))
        writer.writerows(summary_rows(summary))


def text_table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A GitHub-flavoured table that is also readable as plain text; floats get two decimals, None a dash."""
    cells = [[_cell(x) for x in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for n, row in enumerate(cells):
        padded = [x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("| " + " | ".join(padded) + " |")
        if n == 0:
            lines.append("|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|")
    return "\n".join(lines)


def format_summary(summary: Mapping) -> str:
    """The tables that a command prints: AP by stage, then rates by IoU."""
    rows = [[f"stage {s}", *(m[n] for n in STAGE_METRICS)] for s, m in enumerate(summary["stages"], start=1)]
    if summary["oracle"] is not None:
        rows.append(["oracle", *(summary["oracle"].get(n) for n in STAGE_METRICS)])
        if "chance" in summary["oracle"]:
            rows.append(["oracle by chance", summary["oracle"]["chance"]["mean"], *[None] * (len(STAGE_METRICS) - 1)])
    parts = [text_table(["", *STAGE_METRICS], rows)]
    if summary["rates"]:
        parts.append(
            text_table(("rate (%)", "IoU", "rate", "by chance", "bad", "of", "margin < 0.05"), rate_rows(summary))
        )
    else:
        parts.append("No query ids, so no fading, exacerbation and oracle.")
    if not summary["complete"]:
        parts.append(f"Partial: computed on the {summary['images']} images that were predicted.")
    return "\n\n".join(parts)


def rate_rows(summary: Mapping) -> list[list]:
    """Rows ``(name, IoU, rate, rate by chance, bad, total, marginal share at 0.05)`` of a summary's rates."""
    names = {"fading": "TP fading", "exacerbation": "FP exacerbation", "recoverable_misses": "recoverable FN"}
    return [
        [
            title,
            f"{rate['iou']:g}",
            rate[key]["rate"],
            rate[key].get("chance", {}).get("mean"),
            rate[key]["bad"],
            rate[key]["total"],
            rate[key].get("marginal", {}).get("0.05"),
        ]
        for key, title in names.items()
        for rate in summary["rates"]
    ]


def _cell(value) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
