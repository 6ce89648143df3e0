from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config.yaml_tree import read
from model.errors import ConfigError
from service.study.base import Base
from service.study.parameters import CategoricalParameter, FloatParameter, IntParameter
from service.study.search_space import SearchSpace

BASE = Base.of(read(Path(__file__).resolve().parents[3] / "train_config.yaml"))


def choice(*choices, when=None):
    return CategoricalParameter(type="categorical", choices=choices, when=when or {})


def real(low, high, when=None, **more):
    return FloatParameter(type="float", low=low, high=high, when=when or {}, **more)


def whole(low, high, when=None, **more):
    return IntParameter(type="int", low=low, high=high, when=when or {}, **more)


SHARP = {"optimizer.sharpness.method": ("sam", "asam")}
SPACE = SearchSpace(
    {
        # the dependents stand before their parents on purpose
        "optimizer.sharpness.same_dropout": choice(True, False, when=SHARP),
        "optimizer.sharpness.rho": real(0.02, 2.0, log=True, when=SHARP),
        "optimizer.sharpness.method": choice(
            "none", "sam", "asam", when={"optimizer.name": ("adamw", "sgd")}
        ),
        "optimizer.name": choice("adamw", "sgd", "muon"),
        "optimizer.betas": choice([0.9, 0.95], [0.9, 0.999], when={"optimizer.name": ("adamw", "muon")}),
        "optimizer.lr": real(1e-4, 1e-2, log=True),
        "model.n_layer": whole(2, 6, step=2),
    }
)


def expected_keys(values):
    """The conditions of SPACE by hand."""
    keys = {"optimizer.name", "optimizer.lr", "model.n_layer"}
    if values["optimizer.name"] != "sgd":
        keys.add("optimizer.betas")
    if values["optimizer.name"] != "muon":
        keys.add("optimizer.sharpness.method")
        if values["optimizer.sharpness.method"] != "none":
            keys |= {"optimizer.sharpness.rho", "optimizer.sharpness.same_dropout"}
    return keys


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_conditional_parameters_appear_exactly_when_their_condition_holds(seed):
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    values = SPACE.suggest(trial)
    assert set(values) == expected_keys(values)
    assert SPACE.is_complete(values)
    assert SPACE.decode(trial.params) == values
    assert SPACE.encode(values) == trial.params
    assert trial.distributions == {key: SPACE.distributions[key] for key in values}
    assert not SPACE.is_complete({**values, "seed": 1})
    assert not SPACE.is_complete({k: v for k, v in values.items() if k != "optimizer.lr"})


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_a_suggested_point_becomes_the_configuration_it_says(seed):
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    values = SPACE.suggest(trial)
    config = BASE.config_for(values, SPACE.places)
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        node = tree
        for part in key.split("."):
            node = node[part]
        assert node == value
    # everything else is as in the base file
    base = BASE.config
    assert (config.schedule, config.data, config.training) == (base.schedule, base.data, base.training)


def test_enqueued_values_come_back_from_the_trial():
    values = {
        "optimizer.name": "adamw",
        "optimizer.betas": [0.9, 0.999],
        "optimizer.sharpness.method": "sam",
        "optimizer.sharpness.rho": 0.05,
        "optimizer.sharpness.same_dropout": True,
        "optimizer.lr": 3e-3,
        "model.n_layer": 4,
    }
    study = optuna.create_study()
    study.enqueue_trial(SPACE.encode(values))
    assert SPACE.suggest(study.ask()) == values


def test_list_choices_survive_a_database(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=url, study_name="s")
    values = SPACE.suggest(study.ask())
    again = optuna.load_study(storage=url, study_name="s").trials[0]
    assert SPACE.decode(again.params) == values


def test_parents_come_first_and_the_rest_keeps_its_order():
    order = list(SPACE.parameters)
    for key, parameter in SPACE.parameters.items():
        assert all(order.index(parent) < order.index(key) for parent in parameter.when)
    assert order[-2:] == ["optimizer.lr", "model.n_layer"]
    assert SPACE.conditional == {
        "optimizer.sharpness.same_dropout",
        "optimizer.sharpness.rho",
        "optimizer.sharpness.method",
        "optimizer.betas",
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"a": choice(1, 2, when={"b": (1,)}), "b": choice(1, 2, when={"a": (1,)})},
            "study:1: a: when: conditions must not form a circle, given a -> b -> a",
        ),
        (
            {"a": choice(1, 2, when={"a": (1,)})},
            "study:1: a: when: conditions must not form a circle, given a -> a",
        ),
        (
            {"a": choice(1, 2, when={"c": (1,)}), "b": choice(1, 2)},
            "study:1: a: when: must name a categorical parameter of the space, given c, allowed: a, b",
        ),
        (
            {"a": real(1, 2, when={"b": (1,)}), "b": whole(1, 2)},
            "study:1: a: when: must name a categorical parameter of the space, given b, allowed: none here",
        ),
        (
            {"a": real(1, 2, when={"b": ("x", "y")}), "b": choice("x", "z")},
            'study:1: a: when: b is never "y", allowed: ["x", "z"]',
        ),
        (
            {"a": real(1, 2, when={"b": (True,)}), "b": choice(1, 0)},
            "study:1: a: when: b is never true, allowed: [1, 0]",
        ),
        (
            {
                "a": real(1, 2, when={"b": ("x",), "c": ("u",)}),
                "b": choice("x", "y", when={"c": ("v",)}),
                "c": choice("u", "v"),
            },
            "study:1: a: when: no value of c meets this and its parents' conditions",
        ),
    ],
)
def test_conditions_that_cannot_be_met_are_refused(parameters, message):
    with pytest.raises(ConfigError) as caught:
        SearchSpace(parameters, {"a": "study:1"})
    assert str(caught.value) == message


def test_cells_are_the_full_product_with_the_last_key_fastest():
    space = SearchSpace({"a": choice("x", "y"), "b": whole(1, 3), "c": real(0, 0.2, step=0.1)})
    cells = list(space.cells())
    assert space.cell_count == len(cells) == 2 * 3 * 3
    assert cells[:4] == [
        {"a": "x", "b": 1, "c": 0.0},
        {"a": "x", "b": 1, "c": 0.1},
        {"a": "x", "b": 1, "c": 0.2},
        {"a": "x", "b": 2, "c": 0.0},
    ]
    assert len({tuple(cell.values()) for cell in cells}) == 18


def test_the_count_of_a_huge_grid_is_known_without_listing_it():
    assert SearchSpace({"a": whole(1, 10**9), "b": whole(1, 10**9)}).cell_count == 10**18


def test_the_base_files_own_point_has_the_active_parameters_it_allows():
    tree = BASE.config.model_dump(mode="json")
    assert SPACE.within(tree) == {
        "optimizer.name": "adamw",
        "optimizer.sharpness.method": "none",
        "optimizer.betas": [0.9, 0.95],
        "optimizer.lr": 1e-3,
        "model.n_layer": 4,
    }
    assert SearchSpace({"model.n_layer": whole(5, 9), "optimizer.lr": real(1e-2, 1)}).within(tree) == {}
