"""The plan: counts, order, names, errors, and that it needs nothing of PyTorch."""

from __future__ import annotations

import ast
import inspect
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqr import recollection
from sqr.recollection import Plan


@pytest.mark.parametrize(
    "plan, groups, total",
    [
        (Plan.sequential(6), (1, 1, 1, 1, 1, 1), 6),
        (Plan.selective(6), (1, 2, 3, 5, 8, 13), 32),
        (Plan.selective(7), (1, 2, 3, 5, 8, 13, 21), 53),
        (Plan.dense(6), (1, 2, 4, 8, 16, 32), 63),
        (Plan.dense_recurrent(6), (1, 2, 4, 8, 16, 32, 32), 95),
        (Plan.dense_recurrent(3, recurrences=2), (1, 2, 4, 4, 4), 15),
        (Plan.selective(6, window=1), (1, 1, 1, 1, 1, 1), 6),
        (Plan.selective(6, window=3), (1, 2, 4, 7, 13, 24), 51),
        (Plan.selective(6, window=6), (1, 2, 4, 8, 16, 32), 63),
        (Plan.looped(6, times=4), (1, 1, 1, 1), 4),
        (Plan.looped(6, times=1), (1,), 1),
        (Plan.explicit([(0,), (0, 1), (1, 2)]), (1, 2, 3), 6),
        (Plan.explicit([(0,), (0, 1), ((1, 0), (2, 1))]), (1, 2, 2), 5),
        (Plan.sequential(6, stages=4), (1, 1, 1, 1), 4),
        (Plan.sampled(6), (1, 2, 2, 2, 2, 2), 11),
        (Plan.sampled(6, extra=2), (1, 2, 3, 3, 3, 3), 15),
        (Plan.sampled(6, extra=4, pool="recent"), (1, 2, 3, 5, 5, 5), 21),
        (Plan.sampled(1), (1,), 1),
        # where recollection starts: the alternatives in the released AdaMixer config
        (Plan.selective(6, start=2), (1, 1, 2, 3, 5, 8), 20),
        (Plan.selective(6, start=3), (1, 1, 1, 2, 3, 5), 13),
        (Plan.selective(6, start=4), (1, 1, 1, 1, 2, 3), 9),
        (Plan.selective(6, start=5), (1, 1, 1, 1, 1, 2), 7),
        (Plan.dense(6, start=4), (1, 1, 1, 1, 2, 4), 10),
    ],
)
def test_group_counts(plan, groups, total):
    assert plan.groups == groups
    assert plan.total == total
    assert len(plan.sets) == total


def test_storage_order_of_the_released_code():
    plan = Plan.selective(6)
    assert [plan.paths(step) for step in range(1, 6)] == [
        ["0-1"],
        ["0-2", "0-1-2"],
        ["0-1-3", "0-2-3", "0-1-2-3"],
        ["0-2-4", "0-1-2-4", "0-1-3-4", "0-2-3-4", "0-1-2-3-4"],
        [
            *("0-1-3-5", "0-2-3-5", "0-1-2-3-5"),
            *("0-2-4-5", "0-1-2-4-5", "0-1-3-4-5", "0-2-3-4-5", "0-1-2-3-4-5"),
        ],
    ]
    assert plan.paths(6)[-1] == "0-1-2-3-4-5-6"


def test_released_start_and_end_tables_follow_from_the_plan():
    # the released decoder keeps a list of all outputs and reads its stage s from start_q[s] to end_q[s]
    start_q, end_q = [0, 0, 1, 2, 4, 7], [1, 2, 4, 7, 12, 20]
    reserve = ["0"]
    plan = Plan.selective(6)
    for step in range(1, 7):
        reserve += [f"{path}-{step}" for path in reserve[start_q[step - 1] : end_q[step - 1]]]
        assert plan.paths(step) == reserve[-plan.groups[step - 1] :]


def test_dense_names_all_increasing_paths():
    paths = Plan.dense(6).paths(6)
    assert len(set(paths)) == 32
    assert all(list(map(int, p.split("-"))) == sorted(map(int, p.split("-"))) for p in paths)


def test_recurrence_runs_the_last_stage_on_its_own_outputs():
    plan = Plan.dense_recurrent(3)
    assert plan.paths(4) == [f"{path}-3" for path in plan.paths(3)]
    assert plan.step_names == ("stage1", "stage2", "stage3", "stage3_again")
    assert [info.stage for info in plan.sets][-4:] == [3, 3, 3, 3]


def test_sets_say_which_step_and_stage_supervises_them():
    plan = Plan.selective(6)
    assert [(i.step, i.stage) for i in plan.sets[:6]] == [(1, 1), (2, 2), (2, 2), (3, 3), (3, 3), (3, 3)]
    assert [plan.slice(s).start for s in range(1, 7)] == [0, 1, 3, 6, 11, 19]
    assert [plan.sets[plan.slice(s).stop - 1].path for s in (1, 2, 6)] == [(0, 1), (0, 1, 2), (0, 1, 2, 3, 4, 5, 6)]
    assert plan.loss_weights == (1.0,) * 6  # the paper's choice


@given(
    num_stages=st.integers(1, 7),
    window=st.integers(1, 4),
    start=st.integers(1, 7),
    kind=st.sampled_from(["selective", "dense"]),
)
def test_invariants(num_stages, window, start, kind):
    start = min(start, num_stages)
    plan = (
        Plan.selective(num_stages, window=window, start=start)
        if kind == "selective"
        else Plan.dense(num_stages, start=start)
    )
    for number, step in enumerate(plan.steps, start=1):
        assert list(step.sources) == sorted(step.sources)
        sequential = "-".join(map(str, range(number + 1)))
        assert plan.paths(number)[-1] == sequential
        assert len(set(plan.paths(number))) == plan.groups[number - 1]
        assert plan.paths(number) == [f"{p}-{number}" for s in step.sources for p in (plan.paths(s) if s else ["0"])]
        assert plan.last_use(number) == max([n for n, s in enumerate(plan.steps, 1) if number in s.sources], default=0)
    assert eval(f"Plan({[tuple(s) for s in plan.steps]})") == plan


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Plan.explicit([(0,), (0, 2)]), "step 2 .*output 2 does not exist yet"),
        (lambda: Plan.explicit([(0,), (0,)]), "step 2 .*output 1 is missing"),
        (lambda: Plan.explicit([(0,), (1, 1)]), "named twice"),
        (lambda: Plan.explicit([(0,), (0, 1), ((1, 0), 1, 2)]), "group is named twice"),
        (lambda: Plan.explicit([(0,), (0, 1), ((2, 2), 2)]), "output 2 has no group 2; its groups are 0 to 1"),
        (lambda: Plan.explicit([(0,), (0, 1), ((2, 0),)]), "step 3 .*output 2 is missing"),
        (lambda: Plan.explicit([(0,), ("x", 1)]), "source 'x': must be an output, such as 2, or"),
        (lambda: Plan.sequential(6, stages=7), "stages=7: the decoder has stages 1 to 6"),
        (lambda: Plan.sampled(6, extra=0), "extra=0"),
        (lambda: Plan.sampled(6, pool="old"), "pool='old': one of all, recent"),
        (lambda: Plan.selective(3).weighted([1, 1]), "2 entries for 3 steps"),
        (lambda: Plan.selective(3).weighted([1, -1, 1]), "finite numbers of at least 0"),
        (lambda: Plan.selective(3).weighted([0, 0, 0]), "not all of them 0"),
        (lambda: Plan.from_spec({"name": "explicit"}, 3), "needs sources"),
        (lambda: Plan.explicit([(0,), ()]), "at least one source"),
        (lambda: Plan.explicit([(-1, 0)]), "output -1 does not exist"),
        (lambda: Plan.explicit([(0,), (1,)], stages=[1, 3]), "no step runs stage 2"),
        (lambda: Plan.explicit([(0,), (1,)], stages=[1]), "2 steps but 1 stages"),
        (lambda: Plan([(7, (0,))], num_stages=6), "there is no stage 7"),
        (lambda: Plan([]), "at least one step"),
        (lambda: Plan.selective(0), "num_stages=0"),
        (lambda: Plan.selective(6, window=0), "window=0"),
        (lambda: Plan.selective(6, start=7), "start=7"),
        (lambda: Plan.dense(6, start=0), "start=0"),
        (lambda: Plan.dense_recurrent(6, recurrences=0), "recurrences=0"),
        (lambda: Plan.looped(6, times=0), "times=0"),
        (lambda: Plan.from_spec("sqrr", 6), "unknown recollection plan 'sqrr'; one of sequential"),
        (lambda: Plan.from_spec({"start": 2}, 6), "unknown recollection plan None"),
        (
            lambda: Plan.from_spec({"name": "dense", "window": 2}, 6),
            "'dense' has no option 'window'; it takes start, loss_",
        ),
        (lambda: Plan.selective(6).paths(7), "steps 1 to 6"),
    ],
)
def test_impossible_plans_say_why(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_specs_that_a_config_or_a_command_line_can_give():
    assert Plan.from_spec("SQR", 6) == Plan.from_spec("selective", 6) == Plan.selective(6)
    assert Plan.from_spec("dqrr", 6) == Plan.dense_recurrent(6)
    assert hash(Plan.from_spec("dqr", 6)) == hash(Plan.dense(6))
    assert Plan.from_spec({"name": "selective", "start": 3}, 6) == Plan.selective(6, start=3)
    assert Plan.from_spec({"name": "looped", "times": 5}, 6) == Plan.looped(6, times=5)
    assert Plan.from_spec([[0], [0, 1], [1, 2]], 3) == Plan.selective(3)
    assert Plan.from_spec(Plan.dense(4), 6) == Plan.dense(4)
    assert Plan.from_spec({"name": "sampled", "extra": 2}, 6) == Plan.sampled(6, extra=2) != Plan.sampled(6)
    weighted = Plan.from_spec({"name": "explicit", "sources": [[0], [[0, 0], 1]], "loss_weights": [0, 1]}, 2)
    assert weighted == Plan.selective(2).explicit([(0,), ((0, 0), 1)]).weighted([0, 1])
    assert weighted.loss_weights == (0, 1) and weighted != Plan.explicit([(0,), ((0, 0), 1)])


@pytest.mark.parametrize("pool", ["all", "recent"])
@pytest.mark.parametrize("extra", [1, 2])
def test_sampled_plans_draw_from_what_exists_and_keep_the_chain_last(pool, extra):
    plan = Plan.sampled(5, extra=extra, pool=pool).weighted([0, 1, 1, 1, 1])
    counts = [Counter() for _ in range(5)]
    draws = 2000
    for number in range(draws):
        drawn = plan.draw(number)
        assert drawn.groups == plan.groups and drawn.loss_weights == plan.loss_weights
        for step in range(1, 6):
            paths = drawn.paths(step)
            assert paths[-1] == "-".join(map(str, range(step + 1))) and len(set(paths)) == len(paths)
            counts[step - 1].update(drawn.steps[step - 1].outputs)
            if pool == "recent":
                assert min(drawn.steps[step - 1].outputs) >= step - 2
    for step, counted in enumerate(counts, start=1):
        expected = plan.expected_sources(step)
        assert counted.keys() == expected.keys()
        assert all(abs(counted[output] / draws - expected[output]) < 0.05 for output in expected)


def test_a_draw_is_a_function_of_its_number_only():
    plan = Plan.sampled(6)
    assert plan.draw(7) == Plan.sampled(6).draw(7) and type(plan.draw(7)) is Plan
    assert plan.draw(0).steps == plan.steps and len({plan.draw(n) for n in range(50)}) > 25
    assert Plan.selective(6).draw(3) == Plan.selective(6)


def test_the_module_is_pure_python():
    tree = ast.parse(inspect.getsource(recollection))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported == {"__future__", "collections.abc", "copy", "functools", "math", "random", "typing"}


def test_several_groups_of_initial_queries_are_a_multiple_of_the_plan():
    plan = Plan.selective(3)
    assert plan.initial_groups([1, 2, 3]) == 1 and plan.initial_groups([4, 8, 12]) == 4
    for wrong in ([1, 2, 4], [4, 8], [0, 0, 0]):
        with pytest.raises(ValueError, match="are not of the plan"):
            plan.initial_groups(wrong)
