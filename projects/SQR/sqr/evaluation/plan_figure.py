"""A recollection plan as a picture: every query group of every stage, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..recollection import Plan, SampledPlan

_INK, _CHAIN, _GREY = "#1b1b1b", "#2563ae", "#9aa3ad"


def draw_plans(plans: Mapping[str, Plan]):
    """Draw plans side by side: one column per step, one square per group, a line to the group it was made from.

    The inference chain, always the last group of a step, is the blue row at the bottom; inference runs only this row.

    Args:
        plans: by title; up to four are readable.

    Returns:
        A ``matplotlib.figure.Figure``.
    """
    from matplotlib.figure import Figure

    widths = [plan.num_steps + 1 for plan in plans.values()]
    figure = Figure(figsize=(0.52 * sum(widths) + 0.3, 3.0), layout="constrained")
    axes = figure.subplots(1, len(plans), width_ratios=widths, squeeze=False)[0]
    for axis, (title, plan) in zip(axes, plans.items(), strict=True):
        _draw_plan(axis, plan)
        axis.set_title(f"{title}: {plan.total} sets", fontsize=9)
    return figure


def write_plan_figure(plans: Mapping[str, Plan], path: str | Path) -> Path:
    """Draw plans into a file of any format that matplotlib supports, with reproducible bytes."""
    import matplotlib

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    dateless = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix.lower())
    with matplotlib.rc_context({"svg.hashsalt": "plans"}):
        draw_plans(plans).savefig(path, dpi=200, bbox_inches="tight", metadata=dateless)
    return path


def _draw_plan(axis, plan: Plan) -> None:
    # positions[o]: height of every group of output o, in storage order; the chain, its last group, is at 0
    positions = [[0.0]]
    tallest = max(plan.groups)
    size = 38.0 * min(1.0, 8 / tallest)
    for number in range(1, plan.num_steps + 1):
        parents = [(i, height) for i, begin, end in plan.parts(number) for height in positions[i][begin:end]]
        count = len(parents)
        heights = [(count - 1 - i) * max(1.0, 3.0 / count) for i in range(count)]
        for i, ((source, parent), height) in enumerate(zip(parents, heights, strict=True)):
            chain = i == count - 1
            axis.plot(
                (source, number), (parent, height), zorder=2 if chain else 1,
                color=_CHAIN if chain else _GREY, linewidth=1.6 if chain else 0.45,
            )  # fmt: skip
        axis.scatter(
            [number] * count, heights, s=size, marker="s", zorder=3,
            color=[_INK] * (count - 1) + [_CHAIN], linewidths=0,
        )  # fmt: skip
        axis.annotate(
            str(count), (number, heights[0]), (0, 6), textcoords="offset points", ha="center", fontsize=8, color=_INK
        )
        positions.append(heights)
    axis.scatter([0], [0], s=38, marker="o", zorder=3, facecolor="white", edgecolor=_CHAIN, linewidths=1.4)
    axis.set_xticks(range(plan.num_steps + 1), ["start", *(str(step.stage) for step in plan.steps)], fontsize=8)
    axis.set_xlabel("decoder stage", fontsize=8)
    axis.set_yticks([])
    axis.spines[["top", "right", "left"]].set_visible(False)
    top = max(height for heights in positions for height in heights)
    axis.set_ylim(-0.09 * max(top, 4), 1.12 * max(top, 4))


def describe(plan: Plan) -> str:
    """One line per step: the stage that runs, its sources, its groups by path."""
    lines = []
    for number, step in enumerate(plan.steps, start=1):
        takes = " + ".join(_source(plan, *part) for part in plan.parts(number))
        paths = plan.paths(number)
        shown = ", ".join(paths if len(paths) <= 8 else [*paths[:3], f"... {len(paths) - 4} more ...", paths[-1]])
        if isinstance(plan, SampledPlan) and len(paths) > 1:
            expected = plan.expected_sources(number).items()
            shown += "; on average " + ", ".join(f"{_name(output)} {count:.2f}" for output, count in expected)
        lines.append(
            f"step {number}: stage {step.stage} on {takes}: {len(paths)} group{'s' * (len(paths) > 1)}: {shown}"
        )
    if isinstance(plan, SampledPlan):
        lines.insert(0, "one draw of many; every training step draws anew, with the same number of groups")
    if set(plan.loss_weights) != {1.0}:
        lines.append(f"weights of the steps' losses: {', '.join(f'{weight:g}' for weight in plan.loss_weights)}")
    supervised = sum(groups for groups, weight in zip(plan.groups, plan.loss_weights, strict=True) if weight)
    return "\n".join([*lines, f"{supervised} supervised sets; inference runs {plan.paths(plan.num_steps)[-1]}"])


def _name(output: int) -> str:
    return "initial queries" if output == 0 else f"output {output}"


def _source(plan: Plan, output: int, begin: int, end: int) -> str:
    whole = (1, *plan.groups)[output]
    return _name(output) if end - begin == whole else f"group {begin + 1} of {whole} of {_name(output)}"
