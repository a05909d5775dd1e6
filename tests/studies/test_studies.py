"""Studies: files, cells, resuming, intervals, and pages that say what the results say."""

from __future__ import annotations

import fcntl
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers import ROOT
from sqr import model_zoo
from sqr.cli.study import main
from sqr.config import find_config
from sqr.errors import UserError
from sqr.recollection import Plan
from sqr.studies import check_pages, find_studies, load_results, load_study, run_study, update_pages
from sqr.studies import runner as runner_module
from sqr.studies.definition import Cell
from sqr.studies.figures import draw_arms, draw_curves
from sqr.studies.kinds import KINDS
from sqr.studies.kinds.common import weights_digest
from sqr.studies.kinds.training import NotReadyError
from sqr.studies.report import build_report, study_table
from sqr.studies.results import RESAMPLES, Measurement, image_weights
from sqr.studies.statistics import difference, estimate

TOY = {
    "title": "Toys",
    "kind": "toy",
    "seeds": [0, 1, 2],
    "protocol": {"overrides": ["a=1"], "x": 1},
    "datasets": {"small set": {"overrides": ["b=2"]}},
    "arms": {"plain": {"gain": 0}, "better": {"gain": 1.5, "versus": "plain", "overrides": ["c=3"]}},
    "pages": {"PAGE.md": ["full", "stages"]},
}
PAGE = """Before.

<!-- study toy full -->
<!-- end of study toy full -->

Between.

<!-- study toy stages -->
<!-- end of study toy stages -->
After.
"""


def measure_toy(cell, context):
    gain = cell.options["gain"]
    base = 50 + np.random.default_rng(cell.seed).normal() + gain  # the seed moves both arms alike
    base += 0.05 * np.random.default_rng((cell.seed, int(10 * gain))).normal()
    noise = np.random.default_rng(7).normal(0, 1, RESAMPLES)
    return Measurement(
        {"AP": base, "AP50": 80.0}, images=40, resampled=(base + noise).tolist(),
        series={"iteration": [1.0, 2.0], "cpu_seconds": [3.0, 6.0], "AP": [base - 1, base]},
        stages={"AP": [48.0, 49.0], "oracle": 60.0, "oracle_by_chance": 59.0, "fading@0.5": 10.0},
        details={"train_cpu_seconds": 6.0 + gain, "iterations": 2, "sets": 6, "peak_memory": 10**9},
    )  # fmt: skip


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "toy", measure_toy)
    monkeypatch.chdir(tmp_path)
    Path("studies").mkdir()
    Path("studies/toy.yaml").write_text(yaml.safe_dump(TOY, sort_keys=False))
    Path("PAGE.md").write_text(PAGE)
    return load_study("toy")


def run(study, **options):
    lines = []
    left = run_study(
        study, work=Path("work"), data=Path("data"), workers=0, with_changes=True, say=lines.append, **options
    )
    return left, lines


# ------------------------------------------------------------------ the studies of this repository


STUDIES = find_studies(ROOT / "studies")


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_names_kinds_configs_and_plans_that_exist(study):
    assert study.kind in KINDS
    for cell in study.cells():
        config = cell.options["config"]
        find_config(config[cell.dataset] if isinstance(config, dict) else config)
        specs = [cell.options.get("plan", "sequential"), *cell.options.get("curriculum", {}).values()]
        assert all(Plan.from_spec(spec, 6).num_stages == 6 for spec in specs)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_tables_in_pages_say_what_the_results_say(study):
    results = load_results(study, ROOT / "results")
    assert check_pages(study, results, ROOT) == [], f"run: projects/SQR/tools/study.py report {study.name}"
    assert not any("with changes" in result.commit for result in results.values())
    weights = {r.measurement.details["weights"] for r in results.values() if "weights" in r.measurement.details}
    if weights:  # of the shipped checkpoint: another one makes the results out of date
        current = weights_digest(model_zoo.get(study.protocol["config"], trained=True, device="cpu"))
        assert weights == {current}, f"the shipped weights have changed: measure {study.name} again"
    report = ROOT / "results" / study.name / "report.json"
    if results:
        assert json.loads(report.read_text())["cells"]["measured"] == len(results)


# ------------------------------------------------------------------ files and cells


def test_cells_go_seed_by_seed_and_options_of_arms_come_last(toy):
    cells = list(toy.cells())
    assert [(cell.seed, cell.arm) for cell in cells[:3]] == [(0, "plain"), (0, "better"), (1, "plain")]
    assert cells[1].options == {"overrides": ["a=1", "b=2", "c=3"], "x": 1, "gain": 1.5}
    assert cells[1].key == "small_set/better-seed0"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"arms": {}}, "it has no arms"),
        ({"arms": {"a": {"versus": "b"}}}, "compared with 'b', which is no arm"),
        ({"pages": {"PAGE.md": ["long"]}}, "'long' is no table"),
        ({"arms": {"a b": {}, "a_b": {}}}, "differ only in characters"),
    ],
)
def test_what_is_no_study_says_why(toy, change, message):
    Path("studies/bad.yaml").write_text(yaml.safe_dump({**TOY, **change}))
    with pytest.raises(UserError, match=message):
        load_study("bad")
    with pytest.raises(UserError, match="there is no study 'none'"):
        load_study("none")


# ------------------------------------------------------------------ running


def test_a_run_measures_what_is_missing_and_a_killed_one_is_continued(toy, monkeypatch):
    measured = []

    def dies_at_third(cell, context):
        measured.append(cell.key)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure_toy(cell, context)

    monkeypatch.setitem(KINDS, "toy", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(toy)
    assert len(load_results(toy)) == 2
    left, _ = run(toy)
    assert left == 0 and len(load_results(toy)) == 6
    assert len(measured) == 7 and measured[2] == measured[3]
    assert run(toy) == (0, ["toy: 6 of 6 cells are measured, 0 to do"])
    one = load_results(toy)["better", "small set", 1]
    assert one.seed == 1 and one.command.startswith("projects/SQR/tools/study.py run toy --arms 'better' --seeds 1")
    assert one.commit and one.machine and one.seconds >= 0 and one.peak_memory > 0


def test_what_another_process_measures_or_fails_is_left(toy, monkeypatch):
    def measure(cell, context):
        if cell.arm == "better":
            raise NotReadyError("needs plain")
        raise UserError("the training failed")

    monkeypatch.setitem(KINDS, "toy", measure)
    lock = Path("work/toy/small_set/plain-seed0.lock")
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        left, lines = run(toy, seeds=[0, 1])
    assert left == 4 and "another process measures it" in lines[1]
    assert lines[2].endswith("needs plain") and "error: the training failed" in lines[3]


def test_an_evaluation_runs_in_a_process_that_may_have_children(tmp_path):
    """Its data loader starts some; the options are those of the shipped studies."""
    content = {
        "title": "Four stages", "kind": "evaluate", "seeds": [0],
        "datasets": {"fresh": {"fresh": {"seed": 1, "images": 4}}},
        "protocol": {"config": "quick/sqr_deformable_detr_shapes", "checkpoint": "zoo", "latency_images": 1},
        "arms": {"4 stages": {"overrides": ["model.decoder.inference_plan={name: sequential, stages: 4}"]}},
    }  # fmt: skip
    (tmp_path / "four.yaml").write_text(yaml.safe_dump(content))
    study, lines = load_study(str(tmp_path / "four.yaml")), []
    left = run_study(
        study, work=tmp_path, data=tmp_path, results=tmp_path, workers=1, with_changes=True, say=lines.append
    )
    assert left == 0, lines
    (result,) = load_results(study, tmp_path).values()
    assert result.measurement.metrics["AP"] > 20 and result.measurement.metrics["time"] > 0
    assert len(result.measurement.stages["AP"]) == 4


def test_the_command_of_a_result_can_be_typed(toy):
    words = shlex.split(runner_module.command_of(Cell(toy, "plain at SQR's time", "a set", 2)))
    assert words[1:] == ["run", "toy", "--arms", "plain at SQR's time", "--seeds", "2", "--datasets", "a set"]


def test_unknown_names_and_uncommitted_changes_are_refused(toy, monkeypatch):
    with pytest.raises(UserError, match="toy has no arm 'best'; it has plain, better"):
        run(toy, arms=["best"])
    with pytest.raises(UserError, match="toy has no dataset 'coco'"):
        run(toy, datasets=["coco"])
    monkeypatch.setattr(runner_module, "git_state", lambda: "abc with changes")
    with pytest.raises(UserError, match="uncommitted changes"):
        run_study(toy, work=Path("work"), data=Path("data"), workers=0)


# ------------------------------------------------------------------ numbers


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered, trials, truth, found = 0, 600, 3.0, 0
    for _ in range(trials):
        by_image = rng.normal(0, 0.5)  # this sample of images is easier or harder by so much
        seeds = {s: truth + by_image + rng.normal(0, 0.4) for s in range(3)}
        draws = rng.normal(0, 0.5, RESAMPLES)
        one = estimate(seeds, {s: seeds[s] + draws for s in seeds})
        covered += one.low <= truth <= one.high
        found += one.detectable
    assert 0.92 < covered / trials < 0.99
    half = 1.96 * np.sqrt(0.4**2 / 3 + 0.5**2)
    assert half < found / trials < 2.5 * half


def test_differences_are_paired_by_seed_and_by_image(toy):
    run(toy)
    results = load_results(toy)
    arms = {arm: {s: r for (a, _, s), r in results.items() if a == arm} for arm in toy.arms}
    paired = difference(arms["plain"], arms["better"])
    assert paired.low < paired.mean < paired.high and paired.mean == pytest.approx(1.5, abs=0.1)
    assert (
        paired.image_error < 1e-3 and paired.seed_error < 0.1
    )  # all images moved alike, though each arm's own error is large
    assert build_report(toy, results)["datasets"]["small set"]["better"]["AP"]["image_error"] > 0.5
    assert difference({}, arms["plain"]) is None


def test_resamples_are_the_same_for_all_models():
    weights = image_weights(30)
    assert weights.shape == (RESAMPLES, 30) and (weights.sum(1) == 30).all()
    assert np.array_equal(weights, image_weights(30))


# ------------------------------------------------------------------ pages


def test_a_page_follows_the_results_and_a_difference_is_found(toy, capsys):
    run(toy)
    assert main(["report", "toy", "--figures", "figures"]) == 0
    page = Path("PAGE.md").read_text()
    assert page.startswith("Before.") and page.endswith("After.\n")
    assert " to plain |" in page and "| 1.00 |" in page and "| 48.0 | 49.0 |" in page and "Toys" in page
    results = load_results(toy)
    assert check_pages(toy, results) == [] and update_pages(toy, results) == []
    Path("PAGE.md").write_text(page.replace("| 48.0 |", "| 48.1 |", 1))
    assert check_pages(toy, results) == ["PAGE.md: the table 'stages' of study toy is not what results/toy says"]
    Path("PAGE.md").write_text("no markers")
    with pytest.raises(UserError, match="needs the lines <!-- study toy full"):
        update_pages(toy, results)
    assert {p.name for p in Path("figures").iterdir()} == {"toy_arms.svg", "toy_curves.svg"}
    assert len(draw_arms(toy, results).axes) == 1 and len(draw_curves(toy, results).axes) == 2


def test_an_unfinished_study_says_so(toy, capsys):
    assert "Not measured yet" in study_table(toy, {})
    run(toy, limit=2)
    table = study_table(toy, load_results(toy))
    assert "2 of 6 cells measured so far" in table and "images only" in table
    assert main(["list"]) == 0 and "toy: Toys (2 of 6 cells)" in capsys.readouterr().out
    assert main(["run", "missing"]) == 1 and "there is no study" in capsys.readouterr().err
