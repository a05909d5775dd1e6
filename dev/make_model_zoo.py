#!/usr/bin/env python
"""Write MODEL_ZOO.md from projects/SQR/sqr/model_zoo/zoo.json.

    dev/make_model_zoo.py [--check]

``--check`` writes nothing and fails if the file is not up to date. The JSON file:

- ``sources``: where published figures come from, by name: ``text`` and ``url`` (or null).
- ``groups``: a ``title`` and ``rows`` each; a row is a ``config`` and its ``published`` figures (``ap`` on COCO val2017
  in percent, ``source``, and possibly a ``note``); and possibly ``weights``, published checkpoints that fit it:
  ``name``, ``owner``, ``url``, and ``ap`` (in percent) and ``size`` as far as the owner's page states them.
- ``measured``: what was measured with this code: ``config``, ``data``, ``ap`` and ``ap50`` in percent, ``seed``,
  ``hardware`` and ``command``, all of them needed; possibly a ``note`` (other runs, "looped"); and ``checkpoint`` where
  the weights are published, a URL or a path below the folder of zoo.json, with its ``classes``. A figure without the
  command that reproduces it has no place here.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "projects" / "SQR" / "sqr" / "model_zoo" / "zoo.json"
PAGE = ROOT / "MODEL_ZOO.md"

PLANS = {"dqrr_": "dense_recurrent", "dqr_": "dense", "sqr_": "selective"}

HEAD = """# Model zoo

Written by `dev/make_model_zoo.py` from `projects/SQR/sqr/model_zoo/zoo.json`: change that file, not this one.

Every row is a config in `configs/`, and a name for `sqr train`, `--config-file` and `sqr.model_zoo`. Other plans need
no config of their own: `sqr train deformable_detr/deformable_detr_r50_12ep model.decoder.plan=dense`. Batch size and
hardware are in each recipe's header; epochs are passes over COCO train2017.
"""
PUBLISHED = """## Published figures

AP on COCO val2017 in percent, **as others report it for their code**; nothing in this section was measured here, and
a row without a figure has none published. The recipes follow those publications. Published weights can be loaded
directly with `train.init_checkpoint=FILE`; their layouts are tested against the parameter lists of the official code,
not against downloaded files.
"""
WEIGHTS = """## Published weights

Where others offer weights that fit a config, with the AP on COCO val2017 and the size that their pages state. None of
these files was downloaded or measured here, and each has its owner's licence. `train.init_checkpoint=` takes the files,
and those URLs that end in `.pth`.
"""
MEASURED = """## Measured with this code

The checkpoints that come with the package; AP and AP50 in percent on the validation images. Nothing was trained on
COCO with this code. Studies over several seeds are in [BENCHMARKS.md](BENCHMARKS.md).
"""


def page(zoo: dict) -> str:
    """The text of MODEL_ZOO.md."""
    parts = [HEAD, PUBLISHED]
    for group in zoo["groups"]:
        head = ["| config | plan | epochs | published AP | source |", "|---|---|---|---|---|"]
        lines = [f"### {group['title']}", "", *head]
        lines += [line for row in group["rows"] for line in _published_lines(row, zoo["sources"])]
        parts.append("\n".join(lines) + "\n")
    parts.append(WEIGHTS)
    parts.append(_weights([row for group in zoo["groups"] for row in group["rows"]]))
    parts.append(MEASURED)
    parts.append(_measured(zoo["measured"]))
    return "\n".join(parts)


def _measured(rows: list[dict]) -> str:
    if not rows:
        return "Nothing was trained to completion with this code yet, so there is no figure to give.\n"
    lines = ["| config | data | AP | AP50 | seed | hardware | note |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        figures = (f"{row['ap']:.1f}", f"{row['ap50']:.1f}", str(row["seed"]), row["hardware"], row.get("note", ""))
        lines.append(f"| {' | '.join((_link(row['config']), row['data'], *figures))} |")
    commands = [f"    {row['command']}" for row in rows]
    return "\n".join([*lines, "", "By these commands, row by row:", "", *commands]) + "\n"


def _weights(rows: list[dict]) -> str:
    """The table of published checkpoints."""
    lines = ["| config | name | owner | AP | size | URL |", "|---|---|---|---|---|---|"]
    for row in rows:
        for item in row.get("weights", ()):
            ap = f"{item['ap']:.1f}" if "ap" in item else ""
            cells = (_link(row["config"]), item["name"], item["owner"], ap, item.get("size", ""), f"`{item['url']}`")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _published_lines(row: dict, sources: dict) -> list[str]:
    name = row["config"].split("/")[1]
    plan = next((plan for prefix, plan in PLANS.items() if name.startswith(prefix)), "sequential")
    epochs = re.search(r"_(\d+)ep$", name)
    start = f"| {_link(row['config'])} | {plan} | {epochs[1] if epochs else ''} |"
    if not row["published"]:
        return [f"{start} | |"]
    lines = []
    for i, figure in enumerate(row["published"]):
        source = sources[figure["source"]]
        of = f"[{source['text']}]({source['url']})" if source["url"] else source["text"]
        note = f"; {figure['note']}" if "note" in figure else ""
        lines.append(f"{start if i == 0 else '| | | |'} {figure['ap']:.1f} | {of}{note} |")
    return lines


def _link(config: str) -> str:
    return f"[{config}](configs/{config}.py)"


def main() -> int:
    text = page(json.loads(ZOO.read_text()))
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
    elif not PAGE.is_file() or PAGE.read_text() != text:
        print(f"error: {PAGE.name} is not what {ZOO.name} says: run dev/make_model_zoo.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
