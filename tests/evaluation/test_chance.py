"""The oracle and the fading by chance: what is exchanged, and what is left where stages know something or nothing."""

import numpy as np
import pytest

from sqr.evaluation.analysis import analyze
from sqr.evaluation.chance import Chance, generators, partners
from sqr.evaluation.comparison import compare
from sqr.evaluation.table_output import format_summary, summary_rows
from sqr.evaluation.tables import DetectionTable, StagePredictions

IMAGES, OBJECTS, QUERIES, STAGES = 150, 3, 12, 4


def test_partners_have_like_scores_and_were_there_at_the_same_stages():
    rng = np.random.default_rng(0)
    score, there = rng.random(2000), rng.random((9, 2000)) < 0.9
    partner = partners(score, there, generators(1)[0], block=10)
    assert sorted(partner) == list(range(2000))
    assert (there[:, partner] == there).all()
    everywhere = there.all(axis=0)
    assert (partner != np.arange(2000))[everywhere].mean() > 0.8
    assert np.abs(score[partner] - score)[everywhere].max() < 0.1  # ten neighbours of about 800
    assert (partner == partners(score, there, generators(1)[0], block=10)).all()
    assert (partner != partners(score, there, generators(2)[1], block=10)).any()
    assert len(partners(np.zeros(0), np.zeros((0, 0), bool), rng)) == 0


def cascade(knowledge: float):
    """Stages whose scores differ by noise; the earlier ones are also better by ``knowledge`` on right boxes only."""
    rng = np.random.default_rng(1)
    images, annotations, boxes = [], [], np.zeros((IMAGES, QUERIES, 4))
    for image in range(IMAGES):
        images.append({"id": image + 1, "width": 400, "height": 400, "file_name": ""})
        boxes[image] = [[q % 4 * 100, q // 4 * 100, 80, 80] for q in range(QUERIES)]
        for q in range(OBJECTS):
            box = boxes[image, q].tolist()
            annotations.append({"id": len(annotations) + 1, "image_id": image + 1, "category_id": 1, "bbox": box,
                                "area": 6400, "iscrowd": 0})  # fmt: skip
    dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    right = np.arange(QUERIES) < OBJECTS
    known = rng.normal(np.where(right, 0.6, 0.4), 0.2, (IMAGES, QUERIES))
    tables = []
    for stage in range(STAGES):
        moved = known + rng.normal(0, 0.1, known.shape) + knowledge * right * (stage < STAGES - 1)
        tables.append(
            DetectionTable(
                image=np.repeat(np.arange(IMAGES, dtype=np.int32), QUERIES),
                query=np.tile(np.arange(QUERIES, dtype=np.int32), IMAGES),
                label=np.zeros(IMAGES * QUERIES, dtype=np.int32),
                score=moved.reshape(-1).astype(np.float32),
                box=boxes.reshape(-1, 4).astype(np.float32),
            )
        )
    ids = np.arange(1, IMAGES + 1)
    sizes = np.full((IMAGES, 2), 400, dtype=np.int32)
    return StagePredictions(ids, sizes, np.asarray([1]), tables, tables), dataset


@pytest.mark.parametrize("knowledge", [0.0, 0.15])
def test_noise_alone_makes_an_oracle_and_knowledge_is_what_is_above_it(knowledge):
    result = analyze(*cascade(knowledge))
    summary = result.summary()
    gain, by_chance = summary["oracle"]["gain"], summary["oracle"]["gain_by_chance"]
    fading = summary["rates"][0]["fading"]
    assert len(result.chance.draws) == 5 and summary["oracle"]["chance"]["mean"] == result.chance.mean
    assert gain > 15 and by_chance > 10  # though no stage knows more than another, where knowledge is 0
    if knowledge:
        assert gain - by_chance > 5 and fading["chance"]["excess"] > 0.12 * fading["rate"]
    else:
        assert abs(gain - by_chance) < 0.1 * gain and abs(fading["chance"]["excess"]) < 0.12 * fading["rate"]
    assert fading["chance"]["excess"] == pytest.approx(fading["rate"] - fading["chance"]["mean"])
    assert "oracle by chance" in format_summary(summary)
    assert ("ap", "oracle by chance", "AP", result.chance.mean) in summary_rows(summary)


def test_comparison_has_the_excess_with_its_interval_and_nothing_where_it_was_left_out():
    predictions, dataset = cascade(0.15)
    result, without = analyze(predictions, dataset), analyze(predictions, dataset, chance_draws=0)
    rows = {row["metric"]: row for row in compare(result, result, resamples=10)["rows"]}
    above = rows["AP oracle above chance"]
    assert above["values"][0] == pytest.approx(result.oracle["AP"] - result.chance.mean)
    assert above["intervals"][0][0] < above["values"][0] < above["intervals"][0][1] and above["difference"] == 0
    assert rows["TP fading at IoU 0.5 above chance"]["values"][0] == pytest.approx(
        result.summary()["rates"][0]["fading"]["chance"]["excess"]
    )
    assert "chance" not in without.summary()["oracle"] and "chance" not in without.summary()["rates"][0]["fading"]
    assert not any("chance" in row["metric"] for row in compare(without, without, resamples=0)["rows"])


def test_spread():
    assert Chance((1.0, 3.0)).mean == 2 and Chance((1.0, 3.0)).spread == pytest.approx(2**0.5)
    assert Chance((1.0,)).spread == 0
