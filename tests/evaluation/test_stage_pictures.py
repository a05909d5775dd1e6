"""Tracks, stage strips and figures: the right boxes in the right columns, and nothing by colour alone."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sqr.evaluation import analyze, draw_stage_strip, write_figures
from sqr.evaluation.figures import draw_rates
from sqr.evaluation.ground_truth import load_coco
from sqr.evaluation.stage_strip import STYLES, worst_tracks_of_image, write_stage_strips
from sqr.evaluation.synthetic import synthetic_dataset, synthetic_predictions
from sqr.evaluation.tracks import counterpart, follow, worst_cases
from stage_cases import dataset, predictions

OBJECT, NEAR, AWAY = (0, 0, 100, 100), (0, 0, 90, 100), (200, 200, 50, 50)


@pytest.fixture
def analysis():
    """Query 0 fades on the object, query 1 turns from right to wrong, query 2 is absent at first."""
    stages = [
        [{"query": 0, "score": 0.9, "box": NEAR}, {"query": 1, "score": 0.2, "box": AWAY}],
        [
            {"query": 0, "score": 0.6, "box": NEAR},
            {"query": 1, "score": 0.7, "box": AWAY},
            {"query": 2, "score": 0.3, "box": AWAY},
        ],
    ]
    return analyze(predictions(stages, size=400), load_coco(dataset([{"box": OBJECT}], size=400)))


def test_tracks_follow_the_query(analysis):
    errors = analysis.errors[0]
    faded = follow(analysis, errors, errors.true, worst_cases(analysis, errors.true, count=5))
    assert [(t.query, t.verdict, t.best_stage) for t in faded] == [(0, ["true", "faded"], 0)]
    np.testing.assert_allclose(faded[0].score, [0.9, 0.6], atol=1e-6)
    np.testing.assert_allclose(faded[0].iou, [0.9, 0.9], atol=1e-6)
    assert faded[0].severity == pytest.approx(0.3)
    wrong = follow(analysis, errors, errors.false, range(len(errors.false)))
    assert [(t.query, t.verdict) for t in wrong] == [(1, ["false", "exacerbated"]), (2, ["absent", "false"])]
    assert wrong[1].label.tolist() == [-1, 0]


def test_the_worst_come_first_and_one_image_does_not_fill_the_list():
    data, rng = synthetic_dataset(num_images=10, num_classes=2, seed=9)
    result = analyze(synthetic_predictions(data, rng, num_stages=3, num_queries=40), load_coco(data))
    errors = result.errors[0]
    chosen = worst_cases(result, errors.false, count=12, per_image=2)
    tracks = follow(result, errors, errors.false, chosen)
    assert [t.severity for t in tracks] == sorted((t.severity for t in tracks), reverse=True)
    assert np.bincount([t.image for t in tracks]).max() <= 2
    assert all(t.verdict[-1] == "exacerbated" for t in tracks)


def test_the_other_model_is_looked_up_by_place(analysis):
    found = counterpart(analysis, analysis.errors[0], 0, np.asarray(OBJECT, dtype=float))
    assert found.query == 0
    assert counterpart(analysis, analysis.errors[0], 0, np.asarray((300.0, 300.0, 9.0, 9.0))) is None


def test_a_strip_has_a_column_a_stage_and_says_score_and_iou(analysis):
    tracks = worst_tracks_of_image(analysis, analysis.errors[0], 0, count=2)
    figure = draw_stage_strip(np.zeros((400, 400, 3), np.uint8), tracks, ["cat", "dog"], objects=analysis.gt.box)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["stage 1", "stage 2"]
    captions = [axis.get_xlabel() for axis in figure.axes]
    assert "cat 0.90, IoU 0.90  best" in captions[0]
    assert "cat 0.60, IoU 0.90" in captions[1]
    assert {t.get_text() for t in figure.legends[0].get_texts()} >= {STYLES["faded"][2], STYLES["exacerbated"][2]}
    lines = [tuple(np.ravel(str(STYLES[v][1]))) for v in STYLES]
    assert len(set(lines)) == len(lines)  # readable in black and white: every verdict has a line of its own
    with pytest.raises(ValueError, match="at least one query"):
        draw_stage_strip(np.zeros((4, 4, 3), np.uint8), [], ["cat"])


def test_strips_of_the_worst_images_are_written(analysis, tmp_path):
    for name in analysis.gt.file_names:
        Image.fromarray(np.zeros((400, 400, 3), np.uint8)).save(tmp_path / name)
    paths = write_stage_strips(analysis, tmp_path / "figures", image_root=tmp_path, count=2)
    bad = {int(i) for cases in (analysis.errors[0].true, analysis.errors[0].false) for i in cases.image[cases.bad]}
    assert len(paths) == min(2, len(bad)) and all(path.stat().st_size > 1000 for path in paths)
    assert write_stage_strips(analysis, tmp_path / "none", image_root=tmp_path, count=0) == []
    assert write_stage_strips(analysis, tmp_path / "none", image_root=tmp_path / "elsewhere") == []


def test_figures_are_written_and_bars_are_as_high_as_the_rates(tmp_path):
    data, rng = synthetic_dataset(num_images=6, num_classes=2, seed=9)
    coco = load_coco(data)
    two = {n: analyze(synthetic_predictions(data, rng, num_stages=3, num_queries=30), coco) for n in ("base", "SQR")}
    paths = write_figures(two, tmp_path, formats=("svg",))
    assert len(paths) == 8
    assert all(p.stat().st_size > 5000 for p in paths)
    bars = draw_rates(two).axes[0].patches
    tops = sorted(round(b.get_y() + b.get_height(), 6) for b in bars if b.get_hatch() == "....")
    rates = sorted(round(r["fading"]["rate"], 6) for a in two.values() for r in a.summary()["rates"])
    assert tops == rates


def test_the_package_imports_without_matplotlib_and_pillow():
    code = (
        "import sys; sys.modules['matplotlib'] = None; import sqr.evaluation;"
        "assert not any(m.startswith('matplotlib.') for m in sys.modules), 'matplotlib'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
