"""A search space as a model sees it: every configuration a row of numbers from -1 to 1.

A range is one column, on a logarithm where the space says so. Choices that are all numbers are one column too, by rank:
their order is known, their spacing is the person's. Other choices have a column each. A parameter that does not exist
at a configuration stands at 0, the middle: that it does not exist is told by its parent's column.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from service.study.parameters import CategoricalParameter, FloatParameter, IntParameter, Parameter, same
from service.study.search_space import SearchSpace, Values

Array = NDArray[np.float64]
_ACROSS = math.sqrt(2.0)
"""Distance of two choices: as far from one another as the ends of a range, 2, divided by the root of two columns."""


def _is_ordered(parameter: Parameter) -> bool:
    return not isinstance(parameter, CategoricalParameter) or parameter.is_ordered


@dataclass(frozen=True)
class Coordinates:
    """Rows of a space. A `place` is a point of the unit cube with one number a parameter, whether it exists or not."""

    space: SearchSpace

    @cached_property
    def owner(self) -> NDArray[np.intp]:
        """Of every column, the parameter's position in the space."""
        widths = [
            1 if _is_ordered(parameter) else parameter.count() for parameter in self.space.parameters.values()
        ]
        return np.repeat(np.arange(len(widths)), widths)

    @cached_property
    def ordered(self) -> NDArray[np.bool_]:
        """Of every column: it is a quantity, not one of several choices."""
        kinds = [_is_ordered(parameter) for parameter in self.space.parameters.values()]
        return np.array(kinds, dtype=bool)[self.owner]

    def rows(self, configurations: Sequence[Values]) -> Array:
        """(configurations, columns)."""
        return np.array([self._row(values) for values in configurations]).reshape(-1, len(self.owner))

    def values(self, places: Array) -> list[Values]:
        """The configuration at each place, in the space's own values."""
        return [self._values(place) for place in places]

    def places(self, configurations: Sequence[Values]) -> Array:
        """A place of each configuration, one half where a parameter does not exist."""
        found = np.full((len(configurations), len(self.space.parameters)), 0.5)
        for row, values in zip(found, configurations, strict=True):
            for i, (key, parameter) in enumerate(self.space.parameters.items()):
                if key in values:
                    row[i] = _place(parameter, values[key])
        return found

    def spread(self, seed: int, number: int, *, skip: int = 0) -> Array:
        """Places that cover the space evenly, of a scrambled Sobol sequence; `skip` leaves out the first ones."""
        sequence = qmc.Sobol(len(self.space.parameters), scramble=True, rng=np.random.default_rng(seed))
        if skip:
            sequence.fast_forward(skip)
        # in powers of two, without which the sequence warns
        return np.asarray(sequence.random(2 ** math.ceil(math.log2(max(2, number))))[:number])

    def _row(self, values: Values) -> list[float]:
        row: list[float] = []
        for key, parameter in self.space.parameters.items():
            if _is_ordered(parameter):
                row.append(2 * _unit(parameter, values[key]) - 1 if key in values else 0.0)
            else:
                assert isinstance(parameter, CategoricalParameter)
                row.extend(
                    _ACROSS if key in values and same(values[key], choice) else 0.0
                    for choice in parameter.choices
                )
        return row

    def _values(self, place: Array) -> Values:
        values: Values = {}
        for (key, parameter), at in zip(self.space.parameters.items(), place, strict=True):
            if self.space.is_active(key, values):
                values[key] = _value(parameter, float(at))
        return values


def _unit(parameter: Parameter, value: float) -> float:
    """Where a value lies between the lowest, 0, and the highest, 1."""
    if isinstance(parameter, CategoricalParameter):
        return parameter.in_order.index(value) / (len(parameter.choices) - 1)
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _place(parameter: Parameter, value: object) -> float:
    """A place at which `_value` gives the value: the middle of its share of the unit interval."""
    if isinstance(parameter, CategoricalParameter):
        index = next(i for i, choice in enumerate(parameter.in_order) if same(choice, value))
        return (index + 0.5) / len(parameter.choices)
    assert isinstance(value, int | float)
    if isinstance(parameter, FloatParameter) and parameter.step is None:
        return _unit(parameter, value)
    if isinstance(parameter, IntParameter) and parameter.log:
        edges = math.log(parameter.low - 0.5), math.log(parameter.high + 0.5)
        return (math.log(value) - edges[0]) / (edges[1] - edges[0])
    assert parameter.step is not None
    return (round((value - parameter.low) / parameter.step) + 0.5) / parameter.count()


def _value(parameter: Parameter, at: float) -> object:
    """The value at a place from 0 to 1: every one of a finite number of values has an equal share of it."""
    at = min(max(at, 0.0), 1.0)
    if isinstance(parameter, CategoricalParameter):
        choices = parameter.in_order
        return choices[min(int(at * len(choices)), len(choices) - 1)]
    if isinstance(parameter, FloatParameter) and parameter.step is None:
        low, high = parameter.low, parameter.high
        value = low * (high / low) ** at if parameter.log else low + at * (high - low)
        return min(max(value, low), high)
    if isinstance(parameter, IntParameter) and parameter.log:
        edges = math.log(parameter.low - 0.5), math.log(parameter.high + 0.5)
        value = round(math.exp(edges[0] + at * (edges[1] - edges[0])))
        return min(max(value, parameter.low), parameter.high)
    assert parameter.step is not None
    count = parameter.count()
    index = min(int(at * count), count - 1)
    # as `values()` has it, without making all of them
    if isinstance(parameter, IntParameter):
        return parameter.low + parameter.step * index
    return parameter.at(index)
