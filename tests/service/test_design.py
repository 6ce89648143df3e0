import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.design import DesignConfig, space_of


def design(**section) -> DesignConfig:
    return DesignConfig.model_validate_json(json.dumps(section))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "needs either list or grid, given neither"),
        ({"seeds": [1]}, "needs either list or grid, given neither"),
        ({"list": [{}], "grid": {"a": [1]}}, "needs either list or grid, given both"),
        ({"list": []}, "at least 1 item"),
        ({"grid": {}}, "at least 1 item"),
        ({"grid": {"a": []}}, "at least 1 item"),
        ({"list": [{}], "seeds": []}, "at least 1 item"),
        ({"list": [{}], "seeds": [-1]}, "greater than or equal to 0"),
        ({"list": [{"a": 1}, {"seed": 1}], "seeds": [1]}, "needs either seeds or the key seed"),
        ({"grid": {"seed": [1]}, "seeds": [1]}, "needs either seeds or the key seed"),
        ({"grid": {c: list(range(100)) for c in "abc"}}, "at most 10000 configurations, given 1000000"),
        ({"grid": {c: list(range(100)) for c in "ab"}, "seeds": [1, 2]}, "given 20000"),
    ],
)
def test_what_is_no_list_of_configurations_is_refused(section, message):
    with pytest.raises(ValidationError) as caught:
        design(**section)
    assert message in str(caught.value)


def test_a_list_keeps_its_order_and_repeats_each_entry_over_the_seeds():
    cells = design(list=[{"a": 1}, {"b": [0.9, 0.95]}], seeds=[7, 8]).cells()
    assert cells == [
        (("list", 0), {"a": 1, "seed": 7}),
        (("list", 0), {"a": 1, "seed": 8}),
        (("list", 1), {"b": [0.9, 0.95], "seed": 7}),
        (("list", 1), {"b": [0.9, 0.95], "seed": 8}),
    ]


AXES = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.integers(), min_size=1, max_size=4, unique=True), min_size=1
)


@given(AXES, st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
def test_a_grid_is_the_full_product(grid, seeds):
    cells = [cell for _, cell in design(grid=grid, seeds=seeds).cells()]
    # an independent enumeration: count in mixed radix, the last digit fastest
    axes = {**grid, "seed": seeds}
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
    assert cells == expected


@given(AXES)
def test_the_space_of_a_grid_has_what_differs(grid):
    cells = [cell for _, cell in design(grid=grid).cells()]
    space = space_of(cells, {})
    assert {k: list(p.choices) for k, p in space.parameters.items()} == {
        key: values for key, values in grid.items() if len(values) > 1
    }


def test_what_a_cell_leaves_out_has_the_base_files_value():
    cells = [{}, {"lr": 2.0}, {"lr": 3.0, "betas": [0.9, 0.95]}, {"same": 5}]
    base = {"lr": 1.0, "betas": [0.8, 0.9], "same": 5}
    choices = {key: p.choices for key, p in space_of(cells, base).parameters.items()}
    assert choices == {"lr": (1.0, 2.0, 3.0), "betas": ([0.8, 0.9], [0.9, 0.95])}
