import json
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.study.design import BUDGETS, Cell, DesignConfig, arm_name, distinct, space_of


def design(**section) -> DesignConfig:
    return DesignConfig.model_validate_json(json.dumps(section))


def runs(**section):
    """Arm and values of every run, in order."""
    chosen = design(**section)
    return [(cell.arm, cell.values) for cell in chosen.repeated(chosen.cells())]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "needs list, grid, one_at_a_time or leave_one_out, given none"),
        ({"seeds": [1]}, "needs list, grid, one_at_a_time or leave_one_out, given none"),
        ({"list": []}, "at least 1 item"),
        ({"grid": {}}, "at least 1 item"),
        ({"grid": {"a": []}}, "at least 1 item"),
        ({"one_at_a_time": {"a": []}}, "at least 1 item"),
        ({"leave_one_out": {}}, "at least 1 item"),
        ({"list": [{}], "seeds": []}, "at least 1 item"),
        ({"list": [{}], "seeds": [-1]}, "greater than or equal to 0"),
        ({"list": [{"a": 1}, {"seed": 1}], "seeds": [1]}, "needs either seeds or the key seed"),
        ({"grid": {"seed": [1]}, "seeds": [1]}, "needs either seeds or the key seed"),
        ({"grid": {c: list(range(100)) for c in "abc"}}, "at most 10000 configurations, given 1000000"),
        ({"grid": {c: list(range(100)) for c in "ab"}, "seeds": [1, 2]}, "given 20000"),
        ({"list": [{}] * 4000, "one_at_a_time": {"a": [1] * 4000}, "seeds": [1, 2]}, "given 16000"),
        ({"list": [{"arm": 3}]}, "arm must be a name, given 3"),
        ({"list": [{"arm": " "}]}, 'arm must be a name, given " "'),
        (
            {"list": [{"arm": "x", "a": 1}, {"arm": "x", "a": 2}]},
            "an arm has one configuration, given two for",
        ),
        ({"list": [{"arm": "a 1", "a": 2}], "grid": {"a": [1]}}, "given two for 'a 1'"),
        (
            {"list": [{"training.steps": 5, "training.tokens": 10}]},
            "a configuration has one budget, given training.tokens and training.steps",
        ),
    ],
)
def test_what_is_no_list_of_configurations_is_refused(section, message):
    with pytest.raises(ValidationError) as caught:
        design(**section)
    assert message in str(caught.value)


def test_all_arms_run_with_the_first_seed_before_the_second():
    assert runs(list=[{"arm": "A", "a": 1}, {"b": [0.9, 0.95]}], seeds=[7, 8]) == [
        ("A", {"a": 1, "seed": 7}),
        ("b [0.9, 0.95]", {"b": [0.9, 0.95], "seed": 7}),
        ("A", {"a": 1, "seed": 8}),
        ("b [0.9, 0.95]", {"b": [0.9, 0.95], "seed": 8}),
    ]


def test_runs_of_a_list_that_differ_in_their_seed_alone_are_one_arm():
    assert [arm for arm, _ in runs(list=[{"arm": "A", "seed": 1}, {"arm": "A", "seed": 2}])] == ["A", "A"]
    assert [arm for arm, _ in runs(grid={"seed": [1, 2], "a": [0]})] == ["a 0", "a 0"]


AXES = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.integers(), min_size=1, max_size=4, unique=True), min_size=1
)


@given(AXES, st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
def test_a_grid_is_the_full_product(grid, seeds):
    # an independent enumeration: count in mixed radix, the last digit fastest, the seeds slowest
    axes = {"seed": seeds, **grid}
    total = 1
    for values in axes.values():
        total *= len(values)
    expected = []
    for number in range(total):
        cell = {}
        for key in reversed(axes):
            number, digit = divmod(number, len(axes[key]))
            cell[key] = axes[key][digit]
        expected.append(cell)
    assert [values for _, values in runs(grid=grid, seeds=seeds)] == expected


@given(AXES)
def test_one_at_a_time_changes_one_key_of_the_base_file_in_each_run(axes):
    assert [values for _, values in runs(one_at_a_time=axes)] == [
        {key: value} for key, values in axes.items() for value in values
    ]


def test_leave_one_out_takes_each_change_of_the_winner_back():
    winner = {"m.norm": "rmsnorm", "m.rope": True, "o.lr": 0.5}
    assert runs(leave_one_out=winner) == [
        ("winner", winner),
        ("winner without m.norm", {"m.rope": True, "o.lr": 0.5}),
        ("winner without m.rope", {"m.norm": "rmsnorm", "o.lr": 0.5}),
        ("winner without o.lr", {"m.norm": "rmsnorm", "m.rope": True}),
    ]


def test_kinds_stand_one_after_the_other():
    cells = design(
        list=[{"a": 9}], grid={"a": [1], "b": [2]}, one_at_a_time={"b": [3]}, leave_one_out={"b": 4}
    ).cells()
    assert [(cell.path, cell.values) for cell in cells] == [
        (("list", 0), {"a": 9}),
        (("grid",), {"a": 1, "b": 2}),
        (("one_at_a_time", "b"), {"b": 3}),
        (("leave_one_out",), {"b": 4}),
        (("leave_one_out", "b"), {}),
    ]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"optimizer.lr": 0.001, "training.batch_size": 20, "seed": 5}, "lr 0.001, batch_size 20"),
        ({"optimizer.lr": 1e-5, "model.tied": False}, "lr 1e-05, tied false"),
        ({"optimizer.name": "sgd", "optimizer.clip_norm": None}, "name sgd, clip_norm null"),
        ({"a.size": 1, "b.size": 2, "c.d": 3}, "a.size 1, b.size 2, d 3"),
        ({"seed": 1}, "baseline"),
        ({}, "baseline"),
    ],
)
def test_an_arm_without_a_name_is_called_by_its_values(values, name):
    assert arm_name(values) == name


@pytest.mark.parametrize(("key", "other"), list(product(BUDGETS, BUDGETS)))
def test_a_budget_takes_the_place_of_the_base_files(key, other):
    ((arm, values),) = runs(list=[{"a": 1, key: 5}])
    assert arm == f"a 1, {key.rpartition('.')[2]} 5"
    assert values[other] == (5 if other == key else None)


def test_a_configuration_that_occurs_twice_is_run_once_under_its_first_name():
    cells = design(
        list=[{"arm": "A", "a": 1}, {"arm": "B", "a": 2}],
        grid={"a": [2, 3]},
        one_at_a_time={"a": [1, 0], "b": [0]},
    ).cells()

    def identity(cell: Cell):  # as if the base file had a: 0 and b: 0
        return tuple(({"a": 0, "b": 0} | cell.values).items())

    kept = distinct(cells, identity)
    assert [(cell.arm, cell.values) for cell in kept] == [
        ("A", {"a": 1}),
        ("B", {"a": 2}),
        ("a 3", {"a": 3}),
        ("a 0", {"a": 0}),  # b at 0 is the base file, too
    ]


@pytest.mark.parametrize(
    "section",
    [
        {"list": [{"arm": "A", "a": 1}, {"arm": "B", "a": 1}]},
        {"grid": {"a": [1, 1]}},
        {"leave_one_out": {"a": 1, "b": 0}},
    ],
)
def test_one_that_is_given_twice_in_the_same_way_stays_for_the_proof_to_refuse(section):
    cells = design(**section).cells()
    assert distinct(cells, lambda cell: tuple(({"a": 0, "b": 0} | cell.values).items())) == cells


@given(AXES)
def test_the_space_of_a_grid_has_what_differs(grid):
    space = space_of([values for _, values in runs(grid=grid)], {})
    assert {k: list(p.choices) for k, p in space.parameters.items()} == {
        key: values for key, values in grid.items() if len(values) > 1
    }


def test_what_a_cell_leaves_out_has_the_base_files_value():
    cells = [{}, {"lr": 2.0}, {"lr": 3.0, "betas": [0.9, 0.95]}, {"same": 5}]
    base = {"lr": 1.0, "betas": [0.8, 0.9], "same": 5}
    choices = {key: p.choices for key, p in space_of(cells, base).parameters.items()}
    assert choices == {"lr": (1.0, 2.0, 3.0), "betas": ([0.8, 0.9], [0.9, 0.95])}
