import json
from pathlib import Path

import pytest

from model.config.section import validate
from model.config.yaml_tree import parse, read
from model.errors import ConfigError
from service.study.base import Base
from service.study.cells import built_cells
from service.study.file import StudyConfig

BASE = Base.of(read(Path(__file__).resolve().parents[3] / "train_config.yaml"))


def cells(body, scale=None):
    document = parse(f"question: Which?\n{body}", name="study.yaml")
    study = validate(document, StudyConfig)
    return built_cells(study, document, BASE, study.scales[scale] if scale else None)


def test_a_design_comes_with_the_configurations_that_it_makes_and_its_baseline_first():
    found = cells("design: {grid: {optimizer.lr: [0.1, 0.2]}, seeds: [1, 2]}")
    assert [(cell.arm, config.seed) for cell, config in found] == [
        (arm, seed) for seed in (1, 2) for arm in ("baseline", "lr 0.1", "lr 0.2")
    ]
    assert [config for _, config in found] == [BASE.config_for(cell.values) for cell, _ in found]


def test_a_change_that_comes_back_to_the_base_is_listed_once():
    lr = BASE.config.optimizer.lr
    found = cells(f"design: {{one_at_a_time: {{optimizer.lr: [{lr}, 0.1]}}}}")
    assert [cell.arm for cell, _ in found] == ["baseline", "lr 0.1"]


def test_a_configuration_that_cannot_be_built_stays_with_what_is_wrong():
    found = cells("design: {list: [{model.n_head: 0}, {model.n_head: 0}]}")
    assert [isinstance(config, str) for _, config in found] == [False, True, True]


def test_a_grid_lists_its_space_and_a_sampler_lists_nothing():
    space = "space: {optimizer.lr: {type: categorical, choices: [0.1, 0.2]}}\nbaseline: false\n"
    assert [cell.values for cell, _ in cells(f"{space}sampler: {{name: grid}}")] == [
        {"optimizer.lr": 0.1},
        {"optimizer.lr": 0.2},
    ]
    assert cells(f"{space}sampler: {{name: random}}") == cells(space) == []


def test_a_grid_of_a_range_without_steps_is_refused_at_the_samplers_line():
    space = {"optimizer.lr": {"type": "float", "low": 0.1, "high": 0.2}}
    with pytest.raises(ConfigError, match=r"^study.yaml:3: sampler: "):
        cells(f"space: {json.dumps(space)}\nsampler: {{name: grid}}")


def test_a_scale_changes_the_values_of_the_cells():
    body = "design: {grid: {optimizer.lr: [0.1, 0.2]}}\nscales: {small: {map: {optimizer.lr: {0.1: 0.3}}}}"
    assert [cell.values for cell, _ in cells(body, "small")] == [
        {}, {"optimizer.lr": 0.3}, {"optimizer.lr": 0.2},
    ]  # fmt: skip
