"""Plans in words and as a picture."""

import pytest

from sqr.cli.plan import main
from sqr.evaluation.plan_figure import describe, draw_plans, write_plan_figure
from sqr.recollection import Plan


def test_every_group_is_drawn_and_the_chain_lies_at_the_bottom():
    plan = Plan.selective(4)
    (axis,) = draw_plans({"SQR": plan}).axes
    _, *columns = sorted(axis.collections, key=lambda c: c.get_offsets()[0][0])
    assert [len(c.get_offsets()) for c in columns] == list(plan.groups)
    assert all(min(y for _, y in c.get_offsets()) == 0 == c.get_offsets()[-1][1] for c in columns)
    assert len(axis.lines) == plan.total  # one line a group, to where it came from
    assert [text.get_text() for text in axis.texts] == ["1", "2", "3", "5"]
    assert axis.get_title() == "SQR: 11 sets"


def test_lines_join_a_group_with_the_one_it_was_made_from():
    (axis,) = draw_plans({"": Plan.explicit([(0,), (0, 1)])}).axes
    ends = sorted(tuple(line.get_xdata()) for line in axis.lines)
    assert ends == [(0, 1), (0, 2), (1, 2)]


def test_words():
    text = describe(Plan.selective(3))
    assert "step 3: stage 3 on output 1 + output 2: 3 groups: 0-1-3, 0-2-3, 0-1-2-3" in text
    assert "step 1: stage 1 on initial queries: 1 group: 0-1" in text
    assert text.endswith("6 supervised sets; inference runs 0-1-2-3")


def test_words_of_a_sampled_plan_and_of_loss_weights():
    text = describe(Plan.sampled(4).weighted([0, 1, 1, 1]))
    assert text.startswith("one draw of many") and "weights of the steps' losses: 0, 1, 1, 1" in text
    assert "on average initial queries 0.33, output 1 0.33, output 2 1.33" in text
    assert "group 2 of 2 of output 2" in text and text.endswith("6 supervised sets; inference runs 0-1-2-3-4")


def test_command(tmp_path, capsys):
    out = tmp_path / "new" / "plans.svg"
    assert main(["sqr", "{name:selective,start:2}", "[[0],[0,1]]", "--stages", "2", "--output", str(out)]) == 0
    assert out.read_text().lstrip().startswith("<?xml") and "0-1-2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("plan", "message"), [("foo", "unknown recollection plan 'foo'"), ("[[3]]", "output 3 does not")]
)
def test_bad_plans_are_one_line(plan, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main([plan])
    assert caught.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_same_bytes_every_time(tmp_path, ending):
    a, b = (write_plan_figure({"SQR": Plan.selective(3)}, tmp_path / f"{n}.{ending}").read_bytes() for n in "ab")
    assert a == b
