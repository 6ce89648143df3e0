import json

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from service.study.parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    ParameterSection,
    same,
)

ADAPTER = TypeAdapter(ParameterSection)


def parameter(text: str):
    return ADAPTER.validate_json(text)


def json_of(**section) -> str:
    return json.dumps(section)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "float", "low": 2, "high": 1}, "low must be below high, given 2.0 and 1.0"),
        ({"type": "float", "low": 1, "high": 1}, "low must be below high"),
        (
            {"type": "float", "low": 0, "high": 1, "log": True},
            "low must be above 0 with log: true, given 0.0",
        ),
        ({"type": "int", "low": 0, "high": 8, "log": True}, "low must be above 0 with log: true, given 0"),
        ({"type": "float", "low": 1, "high": 2, "log": True, "step": 0.5}, "step does not go with log"),
        ({"type": "int", "low": 1, "high": 9, "log": True, "step": 2}, "step does not go with log"),
        ({"type": "float", "low": 0, "high": 1, "step": 0.3}, "step must lead from low to high exactly"),
        ({"type": "int", "low": 1, "high": 6, "step": 2}, "given 2 from 1 to 6"),
        ({"type": "int", "low": 1.0, "high": 6}, "valid integer"),
        ({"type": "int", "low": 1, "high": 6.5}, "valid integer"),
        ({"type": "int", "low": 1, "high": 6, "step": 0}, "greater than or equal to 1"),
        ({"type": "float", "low": True, "high": 6}, "valid number"),
        ({"type": "float", "low": 0, "high": 6, "choices": [1]}, "Extra inputs"),
        ({"type": "categorical", "choices": []}, "choices must be at least 2, given 0"),
        ({"type": "categorical", "choices": [1]}, "goes under `fixed`"),
        ({"type": "categorical", "choices": ["a", "b", "a"]}, 'choices must differ, given "a" twice'),
        ({"type": "categorical", "choices": [1, 1.0]}, "choices must differ"),
        ({"type": "categorical", "choices": [[0.9, 0.95], [0.9, 0.95]]}, "choices must differ"),
        ({"type": "categorical", "choices": [1, 2], "when": {"a": []}}, "at least 1 item"),
    ],
)
def test_what_is_no_range_or_list_of_choices_is_refused(section, message):
    with pytest.raises(ValidationError) as caught:
        parameter(json.dumps(section))
    assert message in str(caught.value)


def test_steps_are_counted_in_decimal():
    # in binary, 0.3 is not three times 0.1
    assert parameter(json_of(type="float", low=0, high=0.3, step=0.1)).values() == [0.0, 0.1, 0.2, 0.3]
    assert parameter(json_of(type="int", low=2, high=6, step=2)).values() == [2, 4, 6]


FINITE = st.floats(1e-6, 1e6)
CHOICES = st.lists(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-2, 2)
    | st.text(max_size=2)
    | st.lists(st.floats(0, 1), max_size=2),
    min_size=2,
    max_size=6,
)


@st.composite
def parameters(draw):
    kind = draw(st.sampled_from(["float", "stepped", "int", "categorical"]))
    if kind == "categorical":
        choices = []
        for choice in draw(CHOICES):
            if not any(same(choice, other) for other in choices):
                choices.append(choice)
        if len(choices) < 2:
            choices = ["one", "two"]
        return CategoricalParameter(type="categorical", choices=tuple(choices))
    if kind == "int":
        low, steps, step = draw(st.integers(1, 50)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
        log = step == 1 and draw(st.booleans())
        return IntParameter(type="int", low=low, high=low + steps * step, step=step, log=log)
    if kind == "stepped":
        steps = draw(st.integers(1, 9))
        return FloatParameter(type="float", low=0.5, high=0.5 + steps / 8, step=0.125)
    low, high = sorted(draw(st.tuples(FINITE, FINITE).filter(lambda pair: pair[0] != pair[1])))
    return FloatParameter(type="float", low=low, high=high, log=draw(st.booleans()))


@given(parameters(), st.integers(0, 2**32 - 1))
def test_what_optuna_draws_is_contained_and_decoded(p, seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    drawn = study.ask({"key": p.distribution}).params["key"]
    if isinstance(p, CategoricalParameter):
        drawn = p.decode(drawn)
    assert p.contains(drawn)


@given(parameters())
def test_the_corners_are_contained_and_stored_as_optuna_can(p):
    for corner in p.corners():
        assert p.contains(corner)
        if isinstance(p, CategoricalParameter):
            index = p.distribution.to_internal_repr(p.encode(corner))
            assert same(p.decode(p.distribution.to_external_repr(index)), corner)
            # Optuna finds a choice by equality, so that no two of them may be equal once stored
            assert p.choices[int(index)] is corner or same(p.choices[int(index)], corner)
    assert not p.contains("no such choice")


def test_values_between_steps_and_of_another_kind_are_not_contained():
    whole = IntParameter(type="int", low=2, high=6, step=2)
    assert [v for v in (1, 2, 3, 4, 6, 7, 4.0, True) if whole.contains(v)] == [2, 4, 6]
    real = FloatParameter(type="float", low=0, high=1, step=0.25)
    assert [v for v in (-0.25, 0, 0.3, 0.5, 1, True, None, "0") if real.contains(v)] == [0, 0.5, 1]
    flag = CategoricalParameter(type="categorical", choices=(True, 0))
    assert [v for v in (True, False, 1, 0) if flag.contains(v)] == [True, 0]


def test_true_and_one_stay_apart():
    mixed = CategoricalParameter(type="categorical", choices=(True, 1, "true"))
    assert [mixed.decode(c) for c in mixed.distribution.choices] == [True, 1, "true"]
    assert [type(mixed.decode(c)) for c in mixed.distribution.choices] == [bool, int, str]
    # Optuna stores a choice by the position of the first that is equal to it
    assert [mixed.distribution.to_internal_repr(mixed.encode(c)) for c in mixed.choices] == [0, 1, 2]


def test_plain_choices_are_stored_as_they_are():
    plain = CategoricalParameter(type="categorical", choices=("none", 2, 0.5, None))
    assert plain.distribution.choices == ("none", 2, 0.5, None)
