"""A search space as a model sees it: every configuration a row of numbers from -1 to 1.

A range is one column, on a logarithm where the space says so. Choices that are all numbers are one column too, by rank:
their order is known, their spacing is the person's. Other choices have a column each. A parameter that does not exist
at a configuration stands at 0, the middle: that it does not exist is told by its parent's column.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from service.study.parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    has_order,
    same,
)
from service.study.search_space import SearchSpace, Values

Array = NDArray[np.float64]
_ABSENT = object()
"""In place of the value of a parameter that does not exist."""
_ACROSS = math.sqrt(2.0)
"""Distance of two choices: as far from one another as the ends of a range, 2, divided by the root of two columns."""


@dataclass(frozen=True)
class Coordinates:
    """Rows of a space. A `place` is a point of the unit cube with one number a parameter, whether it exists or not."""

    space: SearchSpace

    @cached_property
    def owner(self) -> NDArray[np.intp]:
        """Of every column, the parameter's position in the space."""
        widths = [
            1 if has_order(parameter) else parameter.count() for parameter in self.space.parameters.values()
        ]
        return np.repeat(np.arange(len(widths)), widths)

    @cached_property
    def ordered(self) -> NDArray[np.bool_]:
        """Of every column: it is a quantity, not one of several choices."""
        kinds = [has_order(parameter) for parameter in self.space.parameters.values()]
        return np.array(kinds, dtype=bool)[self.owner]

    def rows(self, configurations: Sequence[Values]) -> Array:
        """(configurations, columns)."""
        found = [
            _columns(parameter, [values.get(key, _ABSENT) for values in configurations])
            for key, parameter in self.space.parameters.items()
        ]
        return np.concatenate(found, axis=1)

    def values(self, places: Array) -> list[Values]:
        """The configuration at each place, in the space's own values."""
        found: dict[str, Sequence[object]] = {}
        for (key, parameter), at in zip(self.space.parameters.items(), places.T, strict=True):
            found[key] = _values(parameter, np.clip(at, 0.0, 1.0))
            for parent, allowed in parameter.when.items():
                # one that does not exist is like no choice: neither does what depends on it
                exists = [any(same(value, choice) for choice in allowed) for value in found[parent]]
                found[key] = [v if there else _ABSENT for v, there in zip(found[key], exists, strict=True)]
        return [
            {key: value for key, value in zip(found, one, strict=True) if value is not _ABSENT}
            for one in zip(*found.values(), strict=True)
        ]

    def places(self, configurations: Sequence[Values]) -> Array:
        """A place of each configuration, one half where a parameter does not exist."""
        found = np.full((len(configurations), len(self.space.parameters)), 0.5)
        for row, values in zip(found, configurations, strict=True):
            for i, (key, parameter) in enumerate(self.space.parameters.items()):
                if key in values:
                    row[i] = _place(parameter, values[key])
        return found

    def nearest(self, values: Values) -> Values | None:
        """The point of the space that is nearest to these values; None where one is missing or is like no choice."""
        point = {key: _nearest(self.space.parameters[key], value) for key, value in values.items()}
        held = self.space.is_complete(point) and all(
            self.space.parameters[key].contains(value) for key, value in point.items()
        )
        return point if held else None

    def spread(self, seed: int, number: int, *, skip: int = 0) -> Array:
        """Places that cover the space evenly, of a scrambled Sobol sequence; `skip` leaves out the first ones."""
        sequence = qmc.Sobol(len(self.space.parameters), scramble=True, rng=np.random.default_rng(seed))
        if skip:
            sequence.fast_forward(skip)
        # in powers of two, without which the sequence warns
        return np.asarray(sequence.random(2 ** math.ceil(math.log2(max(2, number))))[:number])


def _nearest(parameter: Parameter, value: Any) -> Any:
    """The parameter's value that is nearest to a number; what has no order is its own."""
    if parameter.contains(value) or not has_order(parameter):
        return value
    if isinstance(parameter, CategoricalParameter):
        return parameter.in_order[
            round(float(_units(parameter, np.array(value))) * (len(parameter.choices) - 1))
        ]
    inside = min(max(value, parameter.low), parameter.high)
    if isinstance(parameter, FloatParameter):
        if parameter.step is None:
            return float(inside)
        return parameter.at(min(round((inside - parameter.low) / parameter.step), parameter.count() - 1))
    index = round((inside - parameter.low) / parameter.step)
    return parameter.low + parameter.step * min(index, parameter.count() - 1)


def _columns(parameter: Parameter, values: Sequence[object]) -> Array:
    """(values, columns of the parameter): of each value, or of `_ABSENT`."""
    if has_order(parameter):
        numbers = np.array([math.nan if value is _ABSENT else value for value in values], dtype=float)
        return np.nan_to_num(2 * _units(parameter, numbers) - 1)[:, None]
    assert isinstance(parameter, CategoricalParameter)
    chosen = [[same(value, choice) for choice in parameter.choices] for value in values]
    return _ACROSS * np.array(chosen, dtype=float).reshape(-1, len(parameter.choices))


def _units(parameter: Parameter, values: Array) -> Array:
    """Where values lie between the lowest, 0, and the highest, 1."""
    if isinstance(parameter, CategoricalParameter):
        return np.interp(values, parameter.in_order, np.linspace(0, 1, len(parameter.choices)))
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log:
        return np.asarray(np.log(values / low) / math.log(high / low))
    return (values - low) / (high - low)


def _place(parameter: Parameter, value: object) -> float:
    """A place at which `_value` gives the value: the middle of its share of the unit interval."""
    if isinstance(parameter, CategoricalParameter):
        index = next(i for i, choice in enumerate(parameter.in_order) if same(choice, value))
        return (index + 0.5) / len(parameter.choices)
    assert isinstance(value, int | float)
    if isinstance(parameter, FloatParameter) and parameter.step is None:
        return float(_units(parameter, np.array(value)))
    if isinstance(parameter, IntParameter) and parameter.log:
        edges = math.log(parameter.low - 0.5), math.log(parameter.high + 0.5)
        return (math.log(value) - edges[0]) / (edges[1] - edges[0])
    assert parameter.step is not None
    return (round((value - parameter.low) / parameter.step) + 0.5) / parameter.count()


def _values(parameter: Parameter, at: Array) -> Sequence[object]:
    """The value at each place from 0 to 1: every one of a finite number of values has an equal share of it."""
    if isinstance(parameter, FloatParameter) and parameter.step is None:
        low, high = parameter.low, parameter.high
        exact = low * (high / low) ** at if parameter.log else low + at * (high - low)
        return list(np.clip(exact, low, high).tolist())
    if isinstance(parameter, IntParameter) and parameter.log:
        edges = math.log(parameter.low - 0.5), math.log(parameter.high + 0.5)
        rounded = np.rint(np.exp(edges[0] + at * (edges[1] - edges[0])))
        return list(np.clip(rounded, parameter.low, parameter.high).astype(int).tolist())
    count = parameter.count()
    indices = np.minimum((at * count).astype(int), count - 1).tolist()
    if isinstance(parameter, CategoricalParameter):
        return [parameter.in_order[i] for i in indices]
    if isinstance(parameter, IntParameter):
        return [parameter.low + parameter.step * i for i in indices]
    # as `FloatParameter.values` has it, without making all of them
    made = {i: parameter.at(i) for i in set(indices)}
    return [made[i] for i in indices]
