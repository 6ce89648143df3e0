from pathlib import Path

import pytest

from model.config.yaml_tree import parse, read
from model.errors import ConfigError
from service.study.base import Base

FILE = read(Path(__file__).resolve().parents[3] / "train_config.yaml")
BASE = Base.of(FILE)


def test_a_fault_of_a_value_is_told_at_the_place_where_it_was_given():
    places = {"model.n_head": "study:4"}
    assert BASE.config_for({"model.n_head": 3}, places).model.n_head == 3
    with pytest.raises(ConfigError, match=r"^study:4: model\.n_head: must be"):
        BASE.config_for({"model.n_head": 0}, places)


def test_what_can_be_built_is_built_and_the_rest_says_what_is_wrong_without_a_place():
    assert BASE.built({"model.n_head": 3}) == BASE.config_for({"model.n_head": 3})
    assert BASE.built({"model.n_head": 0}).startswith("model.n_head: must be")
    assert BASE.built({"training": 1}).startswith("training: ")


def test_the_values_of_a_base_are_its_defaults_too():
    base = Base.of(parse("optimizer: {lr: 0.01}", name="short.yaml"))
    assert base.values["optimizer.lr"] == 0.01
    assert base.values.keys() == BASE.values.keys()


def test_a_base_that_is_no_configuration_is_refused_at_its_line():
    with pytest.raises(ConfigError, match=r"^short.yaml:1: model.n_head: must be"):
        Base.of(parse("model: {n_head: 0}", name="short.yaml"))


def test_building_a_configuration_leaves_the_base_as_it_is():
    before = str(FILE.tree)
    BASE.built({"model.n_head": 6, "optimizer.sharpness.method": "sam", "model.new.key": 1})
    assert str(FILE.tree) == before
