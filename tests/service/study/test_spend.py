import pytest
from pydantic import ValidationError

from model.errors import ConfigError
from service.study.spend import SpendConfig, refuse_number, shown_cost, unit_of


def test_an_amount_has_one_unit():
    tokens, flops, hours = SpendConfig(tokens=7), SpendConfig(flops=1e15), SpendConfig(hours=1.5)
    assert [(each.unit, each.amount) for each in (tokens, flops, hours)] == [
        ("tokens", 7),
        ("flops", 10**15),
        ("seconds", 5400.0),
    ]
    assert isinstance(flops.amount, int)
    assert unit_of(None) == "tokens"


@pytest.mark.parametrize("given", [{}, {"tokens": 7, "hours": 1.0}, {"hours": 0.0}, {"flops": -1.0}])
def test_none_or_two_or_nothing_to_spend_are_refused(given):
    with pytest.raises(ValidationError):
        SpendConfig(**given)


def test_an_amount_is_written_in_its_unit():
    assert shown_cost(3_000_000, "tokens", budget="steps") == "3,000,000 steps"
    assert shown_cost(1.2e15, "flops", budget="tokens") == "1.200e15 FLOPs"
    assert shown_cost(7500.0, "seconds", budget="tokens") == "2 h 05 min of training"


def test_a_number_of_trials_is_refused_where_nobody_knows_what_they_cost():
    refuse_number(None, 5)
    refuse_number(SpendConfig(flops=1e15), 5)
    refuse_number(SpendConfig(hours=1.0), None)
    with pytest.raises(
        ConfigError, match=r"^trials: given 5, .* in hours, .*; raise spend\.hours in its file"
    ):
        refuse_number(SpendConfig(hours=1.0), 5)
