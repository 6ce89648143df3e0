import dataclasses

import pytest

from model.errors import ConfigError
from model.measurement.evaluation_record import Evaluation
from service.report.record.metrics import FAMILIES, FIGURES, metric


def test_a_name_stands_for_one_definition():
    for name, found in FIGURES.items():
        assert metric(name) is found
        assert found.name == name
        assert found.definition
        assert found.split in ("", "train", "validation")
    others = FIGURES.keys() - {"total_tokens"}  # as published tables call `tokens`
    assert len({(FIGURES[name].definition, FIGURES[name].instant) for name in others}) == len(others)
    assert FIGURES.keys() & FAMILIES.keys() <= {"grad_norm"}  # of the whole gradient, and of a layer's


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layers_metric_is_its_familys(family):
    found = metric(f"{family}/blocks.0")
    assert found.name == f"{family}/blocks.0"
    assert found.definition == FAMILIES[family].definition


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("val_los", r"^no metric 'val_los', allowed: val_loss\b"),
        ("grad_norm/", r"^no metric 'grad_norm/', allowed: grad_norm\b"),
        ("nosuch/blocks.0", "^no metric 'nosuch/blocks.0', allowed: "),
        ("", "^no metric '', allowed: "),
    ],
)
def test_another_name_is_answered_with_what_is_near(name, said):
    with pytest.raises(ConfigError, match=said):
        metric(name)


def test_losses_are_better_when_they_are_lower_and_speeds_when_they_are_higher():
    losses = [field.name for field in dataclasses.fields(Evaluation) if "loss" in field.name]
    assert {FIGURES[name].better for name in losses} == {"lower"}
    assert {figure.better for figure in FIGURES.values() if figure.unit.endswith("/s")} == {"higher"}


def test_a_label_has_the_unit_unless_the_name_says_it():
    assert metric("val_loss").label == "val_loss, nats/char"
    assert [metric(name).label for name in ("seconds", "tokens_per_second")] == [
        "seconds",
        "tokens_per_second",
    ]
