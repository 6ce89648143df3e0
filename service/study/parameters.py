"""One parameter of a search space, as `study.yaml` describes it: a range or a list of choices."""

import json
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, model_validator

from model.config.section import Section

Condition = dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]
"""Values by key of a categorical parameter; a parameter exists where all its parents have one of theirs."""


class FloatParameter(Section):
    """A real number from `low` to `high`, both included."""

    type: Literal["float"]
    low: float
    """Lowest value."""
    high: float
    """Highest value, above `low`."""
    step: float | None = Field(None, gt=0)
    """Distance of the values, counted from `low`; null for all of them."""
    log: bool = False
    """Search the logarithm: right for a quantity whose factors matter, such as a learning rate."""
    when: Condition = Field(default_factory=dict)
    """Values by key of categorical parameters: this one exists in trials whose other values are among them."""

    @model_validator(mode="after")
    def _range_holds(self) -> "FloatParameter":
        _check_range(self.low, self.high, self.log)
        if self.log and self.step is not None:
            raise ValueError(f"step does not go with log: true, given step {self.step}")
        _check_step(self.low, self.high, self.step)
        return self

    @property
    def distribution(self) -> FloatDistribution:
        """The range in Optuna's words."""
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def corners(self) -> tuple[float, ...]:
        """The bounds."""
        return (self.low, self.high)

    def count(self) -> int:
        """Number of values, with a step."""
        assert self.step is not None, "a grid refuses other parameters"
        return int((Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(self.step))) + 1

    def values(self) -> list[float]:
        """Every value, with a step."""
        return [self.at(i) for i in range(self.count())]

    def at(self, index: int) -> float:
        """The value `index` steps above the lowest, in decimal, as Optuna counts."""
        return float(Decimal(str(self.low)) + Decimal(str(self.step)) * index)

    def contains(self, value: Any) -> bool:
        """The value is one that a trial may suggest."""
        return (
            not isinstance(value, bool)
            and isinstance(value, int | float)
            and self.low <= value <= self.high
            and _fits_step(self.low, value, self.step)
        )

    @property
    def allowed(self) -> str:
        """The range for people."""
        return _range(self.low, self.high, self.step)

    def taken(self, value: Any) -> float:
        """A value given from elsewhere, as a trial has it. Raises ValueError: it is outside."""
        if not self.contains(value):
            raise ValueError(value)
        return float(value)


class IntParameter(Section):
    """A whole number from `low` to `high`, both included."""

    type: Literal["int"]
    low: int
    """Lowest value."""
    high: int
    """Highest value, above `low`."""
    step: int = Field(1, ge=1)
    """Distance of the values, counted from `low`."""
    log: bool = False
    """Search the logarithm."""
    when: Condition = Field(default_factory=dict)
    """Values by key of categorical parameters: this one exists in trials whose other values are among them."""

    @model_validator(mode="after")
    def _range_holds(self) -> "IntParameter":
        _check_range(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise ValueError(f"step does not go with log: true, given step {self.step}")
        _check_step(self.low, self.high, self.step)
        return self

    @property
    def distribution(self) -> IntDistribution:
        """The range in Optuna's words."""
        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def corners(self) -> tuple[int, ...]:
        """The bounds."""
        return (self.low, self.high)

    def count(self) -> int:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    def values(self) -> list[int]:
        """Every value."""
        return list(range(self.low, self.high + 1, self.step))

    def contains(self, value: Any) -> bool:
        """The value is one that a trial may suggest."""
        return (
            type(value) is int and self.low <= value <= self.high and _fits_step(self.low, value, self.step)
        )

    @property
    def allowed(self) -> str:
        """The range for people."""
        return "a whole number " + _range(self.low, self.high, self.step if self.step > 1 else None)

    def taken(self, value: Any) -> int:
        """A value given from elsewhere, as a trial has it. Raises ValueError: it is outside."""
        if not self.contains(value):
            raise ValueError(value)
        return int(value)


class CategoricalParameter(Section):
    """One of several values without an order; lists are allowed (`[[0.9, 0.95], [0.9, 0.999]]`)."""

    type: Literal["categorical"]
    choices: tuple[Any, ...]
    """The values, two or more, all different."""
    when: Condition = Field(default_factory=dict)
    """Values by key of categorical parameters: this one exists in trials whose other values are among them."""

    @model_validator(mode="after")
    def _choices_differ(self) -> "CategoricalParameter":
        if len(self.choices) < 2:
            raise ValueError(
                f"choices must be at least 2, given {len(self.choices)}; one value alone goes under `fixed`"
            )
        for i, choice in enumerate(self.choices):
            if any(same(choice, other) for other in self.choices[:i]):
                raise ValueError(f"choices must differ, given {json.dumps(choice)} twice")
        return self

    @cached_property
    def is_ordered(self) -> bool:
        """All choices are numbers."""
        return all(
            isinstance(choice, int | float) and not isinstance(choice, bool) for choice in self.choices
        )

    @cached_property
    def in_order(self) -> tuple[Any, ...]:
        """The choices, by size where all are numbers."""
        return tuple(sorted(self.choices)) if self.is_ordered else self.choices

    @property
    def is_encoded(self) -> bool:
        """The choices are stored as JSON text: Optuna stores only scalars, and takes true for 1."""
        kinds = {type(choice) for choice in self.choices}
        scalars = kinds <= {str, int, float, bool, type(None)}
        return not scalars or (bool in kinds and not kinds.isdisjoint({int, float}))

    @property
    def distribution(self) -> CategoricalDistribution:
        """The choices in Optuna's words, as they are stored."""
        return CategoricalDistribution([self.encode(choice) for choice in self.choices])

    def corners(self) -> tuple[Any, ...]:
        """All choices."""
        return self.choices

    def count(self) -> int:
        """Number of values."""
        return len(self.choices)

    def values(self) -> list[Any]:
        """Every value."""
        return list(self.choices)

    def contains(self, value: Any) -> bool:
        """The value is one that a trial may suggest."""
        return any(same(value, choice) for choice in self.choices)

    @property
    def allowed(self) -> str:
        """The choices for people."""
        return ", ".join(json.dumps(choice) for choice in self.choices)

    def taken(self, value: Any) -> Any:
        """The choice that is given from elsewhere, stored or plain. Raises ValueError: it is none of them."""
        for form in (self.encode, lambda choice: choice):
            for choice in self.choices:
                if same(form(choice), value):
                    return choice
        raise ValueError(value)

    def encode(self, choice: Any) -> Any:
        """A choice as Optuna stores it."""
        return json.dumps(choice) if self.is_encoded else choice

    def decode(self, stored: Any) -> Any:
        """A choice from what Optuna stores."""
        return json.loads(stored) if self.is_encoded else stored


Parameter = FloatParameter | IntParameter | CategoricalParameter
ParameterSection = Annotated[Parameter, Field(discriminator="type")]


def same(left: Any, right: Any) -> bool:
    """Equal as a configuration means it: 1 is 1.0, and true is not 1."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _range(low: float, high: float, step: float | None) -> str:
    return f"from {low} to {high}" + (f" in steps of {step}" if step is not None else "")


def _check_range(low: float, high: float, log: bool) -> None:
    if low >= high:
        raise ValueError(f"low must be below high, given {low} and {high}")
    if log and low <= 0:
        raise ValueError(f"low must be above 0 with log: true, given {low}")


def _check_step(low: float, high: float, step: float | None) -> None:
    if not _fits_step(low, high, step):
        raise ValueError(f"step must lead from low to high exactly, given {step} from {low} to {high}")


def _fits_step(low: float, value: float, step: float | None) -> bool:
    # In decimal, as Optuna does: 0.3 is three steps of 0.1 above 0.
    return step is None or not (Decimal(str(value)) - Decimal(str(low))) % Decimal(str(step))


def has_order(parameter: Parameter) -> bool:
    """Its values are numbers, be they of a range or choices."""
    return not isinstance(parameter, CategoricalParameter) or parameter.is_ordered
