"""The search space: parameters by dotted key, what a trial suggests, and the configuration that comes of it.

A parameter's key is a path into the base file (`optimizer.lr`). A parameter with `when` exists only in trials
whose parents have one of the named values. That every point of a space is a valid configuration is shown in
`service.study.proof`, before any trial.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from model.errors import ConfigError
from service.study.parameters import CategoricalParameter, FloatParameter, IntParameter, Parameter, same

Distribution = FloatDistribution | IntDistribution | CategoricalDistribution
Values = dict[str, Any]
"""Overrides of a base file by dotted key, as YAML has them: scalars and lists."""


def key_of(values: Values) -> str:
    """A text that is the same for the same values, in whatever order they stand."""
    return json.dumps(values, sort_keys=True)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a tree that is not itself a mapping, with its dotted key."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@dataclass(frozen=True)
class SearchSpace:
    """Parameters by dotted key, parents before those that depend on them.

    Attributes:
        parameters: In the order in which a trial suggests them.
        places: `file:line` of each key, for messages.
    """

    parameters: Mapping[str, Parameter]
    places: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", self._parents_first())
        for key in self.parameters:
            self.requirements(key)

    @property
    def distributions(self) -> dict[str, Distribution]:
        """Optuna's distributions by dotted key."""
        return {key: parameter.distribution for key, parameter in self.parameters.items()}

    @property
    def conditional(self) -> frozenset[str]:
        """Keys that exist in some trials only."""
        return frozenset(key for key, parameter in self.parameters.items() if parameter.when)

    def tried(self, key: str, of_base: Any, *, baseline: bool) -> tuple[Any, ...]:
        """The bounds or choices of `key`, and the base file's value where a trial may be left with it.

        Args:
            key: Dotted, of the base file.
            of_base: Its value there.
            baseline: A trial is the base file as it is.
        """
        parameter = self.parameters.get(key)
        if parameter is None:
            return (of_base,)
        left = baseline or key in self.conditional
        return (*parameter.corners(), of_base) if left else parameter.corners()

    def suggest(self, trial: optuna.Trial) -> Values:
        """The values of a trial by dotted key; conditional parameters exactly where their condition holds."""
        values: Values = {}
        for key, parameter in self.parameters.items():
            if self.is_active(key, values):
                if isinstance(parameter, FloatParameter):
                    values[key] = trial.suggest_float(
                        key, parameter.low, parameter.high, step=parameter.step, log=parameter.log
                    )
                elif isinstance(parameter, IntParameter):
                    values[key] = trial.suggest_int(
                        key, parameter.low, parameter.high, step=parameter.step, log=parameter.log
                    )
                else:
                    stored = trial.suggest_categorical(key, parameter.distribution.choices)
                    values[key] = parameter.decode(stored)
        return values

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values as `trial.params` holds them, for `study.enqueue_trial`."""
        return {key: self._stored(key, value, "encode") for key, value in values.items()}

    def point(self, params: Mapping[str, Any], *, whole: bool = False) -> Values:
        """The values of a point that comes from elsewhere, as trials store it or as a person writes it.

        Args:
            params: by dotted key.
            whole: it has every parameter that exists there.

        Raises:
            ConfigError: it does not lie in the space; the message has the key, the value and the range.
        """
        unknown = [key for key in params if key not in self.parameters]
        if unknown:
            known = ", ".join(self.parameters)
            raise ConfigError(f"{unknown[0]}: is no parameter of the space, which has: {known}")
        values: Values = {}
        for key, parameter in self.parameters.items():
            active = self.is_active(key, values)
            if key not in params:
                if whole and active:
                    raise ConfigError(f"{key}: is missing, allowed: {parameter.allowed}")
                continue
            if not active:
                conditions = (f"{parent} {json.dumps(list(c))}" for parent, c in parameter.when.items())
                raise ConfigError(f"{key}: exists only beside {' and '.join(conditions)}")
            try:
                values[key] = parameter.taken(params[key])
            except ValueError:
                given = json.dumps(params[key], default=str)
                raise ConfigError(f"{key}: given {given}, allowed: {parameter.allowed}") from None
        return values

    def decode(self, params: Mapping[str, Any]) -> Values:
        """Values from `trial.params`."""
        return {key: self._stored(key, value, "decode") for key, value in params.items()}

    def is_active(self, key: str, values: Mapping[str, Any]) -> bool:
        """The parameter exists beside `values`, which have its parents, where these exist."""
        return all(
            parent in values and any(same(values[parent], allowed) for allowed in choices)
            for parent, choices in self.parameters[key].when.items()
        )

    def is_complete(self, values: Mapping[str, Any]) -> bool:
        """`values` has exactly the parameters that exist at this point."""
        return set(values) == {key for key in self.parameters if self.is_active(key, values)}

    @property
    def cell_count(self) -> int:
        """Combinations of all values, of a space that has choices or steps only."""
        return math.prod(parameter.count() for parameter in self.parameters.values())

    def cells(self) -> Iterator[Values]:
        """Each of these combinations, the last key changing fastest."""
        for cell in product(*(p.values() for p in self.parameters.values())):
            yield dict(zip(self.parameters, cell, strict=True))

    def requirements(self, key: str) -> dict[str, list[Any]]:
        """The values that the ancestors of a parameter must have for it to exist.

        Raises:
            ConfigError: no choice of an ancestor meets all the conditions on the way.
        """
        needed: dict[str, list[Any]] = {}
        for parent, choices in self.parameters[key].when.items():
            for ancestor, allowed in [(parent, list(choices)), *self.requirements(parent).items()]:
                known = needed.get(ancestor, allowed)
                needed[ancestor] = [value for value in known if any(same(value, other) for other in allowed)]
                if not needed[ancestor]:
                    raise self.fault(
                        key, f"when: no value of {ancestor} meets this and its parents' conditions"
                    )
        return needed

    def within(self, tree: Mapping[str, Any]) -> Values:
        """The values that a whole configuration has for the parameters that exist there and allow them."""
        values: Values = {}
        flat = dict(leaves(tree))
        for key, parameter in self.parameters.items():
            if self.is_active(key, values) and parameter.contains(flat.get(key)):
                values[key] = flat[key]
        return values

    def fault(self, key: str, what: str) -> ConfigError:
        """An error at the place of a parameter."""
        return ConfigError(f"{self.places.get(key, 'search space')}: {key}: {what}")

    def _stored(self, key: str, value: Any, direction: Literal["encode", "decode"]) -> Any:
        parameter = self.parameters[key]
        return getattr(parameter, direction)(value) if isinstance(parameter, CategoricalParameter) else value

    def _parents_first(self) -> dict[str, Parameter]:
        ordered: dict[str, Parameter] = {}

        def visit(key: str, below: tuple[str, ...]) -> None:
            if key in below:
                circle = " -> ".join([*below[below.index(key) :], key])
                raise self.fault(key, f"when: conditions must not form a circle, given {circle}")
            for parent, values in self.parameters[key].when.items():
                self._check_condition(key, parent, values)
                visit(parent, (*below, key))
            ordered.setdefault(key, self.parameters[key])

        for key in self.parameters:
            visit(key, ())
        return ordered

    def _check_condition(self, key: str, parent: str, values: tuple[Any, ...]) -> None:
        of = self.parameters.get(parent)
        if not isinstance(of, CategoricalParameter):
            categorical = [k for k, p in self.parameters.items() if isinstance(p, CategoricalParameter)]
            allowed = ", ".join(sorted(categorical)) or "none here"
            raise self.fault(
                key,
                f"when: must name a categorical parameter of the space, given {parent}, allowed: {allowed}",
            )
        for value in values:
            if not any(same(value, choice) for choice in of.choices):
                choices = json.dumps(list(of.choices))
                raise self.fault(key, f"when: {parent} is never {json.dumps(value)}, allowed: {choices}")
