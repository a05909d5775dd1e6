"""MODEL_ZOO.md says what zoo.json says, which says what the configs are and what their headers quote."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest

from helpers import ROOT
from sqr.config import load_config

ZOO = json.loads((ROOT / "projects" / "SQR" / "sqr" / "model_zoo" / "zoo.json").read_text())
ROWS = {row["config"]: row for group in ZOO["groups"] for row in group["rows"]}
PARTS = ("common", "models", "quick")


def test_the_page_is_up_to_date():
    command = [sys.executable, str(ROOT / "dev" / "make_model_zoo.py"), "--check"]
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0


def test_a_row_for_every_recipe_and_a_recipe_for_every_row():
    configs = ROOT / "configs"
    names = {p.relative_to(configs).with_suffix("").as_posix() for p in configs.rglob("*.py")}
    recipes = {name for name in names if name.split("/")[0] not in PARTS and "/finetune_" not in name}
    assert set(ROWS) == recipes
    assert sum(len(group["rows"]) for group in ZOO["groups"]) == len(ROWS)
    assert {row["config"] for row in ZOO["measured"]} <= names


@pytest.mark.parametrize("name", ROWS)
def test_headers_quote_what_the_zoo_says(name):
    text = (ROOT / "configs" / f"{name}.py").read_text()
    header = text.split('"""')[1]
    quoted = {float(n) for pair in re.findall(r"AP: (\d+\.\d)|(\d+\.\d) AP", header) for n in pair if n}
    published = {figure["ap"] for figure in ROWS[name]["published"]}
    assert quoted <= published and bool(quoted) == bool(published)


def test_every_figure_says_where_it_is_from():
    for row in ROWS.values():
        assert all(figure["source"] in ZOO["sources"] for figure in row["published"])


def test_published_weights_say_whose_they_are_and_where():
    listed = [item for row in ROWS.values() for item in row.get("weights", ())]
    assert len({item["url"] for item in listed}) == len(listed) > 10
    for item in listed:
        assert {"name", "owner", "url"} <= item.keys() <= {"name", "owner", "url", "ap", "size"}
        assert item["url"].startswith("https://") and ("ap" not in item or 30 < item["ap"] < 60)
        assert f"`{item['url']}`" in (ROOT / "MODEL_ZOO.md").read_text()


MEASURED = {"config": str, "data": str, "ap": float, "ap50": float, "seed": int, "hardware": str, "command": str}


def test_every_measured_figure_says_how_to_measure_it_again():
    for row in ZOO["measured"]:
        assert {key: type(row[key]) for key in MEASURED} == MEASURED
        assert row.keys() <= {*MEASURED, "note", "checkpoint", "classes"} and ("classes" in row) == (
            "checkpoint" in row
        )
        words = shlex.split(row["command"])
        assert words[words.index("--config-file") + 1] == row["config"]
        load_config(row["config"], [word for word in words if "=" in word])
