"""The proof that every configuration a study may ask for is valid, done before its first trial.

A space is tried at each bound and choice alone, at the combinations of them, and at random points; a design
at each of its cells. A fault is told with the parameters that are to blame, the first one of each with the others'.
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from model.config.section import meant
from model.errors import ConfigError, together
from service.study.base import Base, Built
from service.study.design import shown_value
from service.study.parameters import CategoricalParameter, FloatParameter, Parameter, same
from service.study.run_config import RunConfig
from service.study.search_space import SearchSpace, Values

MAX_COMBINATIONS = 4_096
"""Combinations of bounds and choices that are all tried; of more, as many random ones are."""
RANDOM_POINTS = 2_000


@dataclass(frozen=True)
class Proof:
    """What a proof has seen.

    Attributes:
        points: Configurations that were built.
        without_effect: Dotted keys that changed nothing in any of them.
    """

    points: int
    without_effect: frozenset[str]


def prove_space(space: SearchSpace, base: Base) -> Proof:
    """Build the configuration of every corner and of many random points of a space.

    The random points come from a fixed seed: the same file passes or fails everywhere.

    Raises:
        ConfigError: keys that are unknown or that no trial may change; or else points that are no valid
            configurations, and parameters without effect at some point: the first of each parameter's.
    """
    if faults := faults_of_keys(
        {key: space.places.get(key, "search space") for key in space.parameters}, base
    ):
        raise together(faults)
    points = 0
    idle: frozenset[str] | None = None
    found: dict[str, ConfigError] = {}  # by parameters that are to blame
    alone = sum(len(parameter.corners()) for parameter in space.parameters.values())
    for number, values in enumerate(_points(space, random.Random(0))):
        if found and number >= alone:  # each has been tried by itself
            raise together(list(found.values()))
        config = base.built(values)
        if isinstance(config, str):
            blamed, fault = _blamed(space, base, values)
            if not blamed.keys() & found.keys():
                found |= dict.fromkeys(blamed, fault)
            continue
        unused = frozenset(base.kind.without_effect(config))
        for key in values:
            if key in unused and key not in found:
                found[key] = _without_effect(space, base, values, key)
        points += 1
        idle = unused if idle is None else idle & unused
    if found:
        raise together(list(found.values()))
    return Proof(points, idle or frozenset())


def prove_cells(
    cells: Sequence[Values],
    base: Base,
    places: Sequence[str],
    *,
    built: Sequence[Built] | None = None,
    own_budgets: bool = False,
) -> Proof:
    """Build the configuration of every cell of a design.

    Args:
        cells: Values by dotted key.
        base: What they change.
        places: Where each was given.
        built: What `base.built` has made of each, where that has been done.
        own_budgets: They may change budget and rungs.

    Raises:
        ConfigError: as `prove_space`, or two cells that are the same configuration.
    """
    seen: dict[str, int] = {}
    idle: frozenset[str] | None = None
    faults = []
    configs = map(base.built, cells) if built is None else built
    for i, (cell, place, config) in enumerate(zip(cells, places, configs, strict=True)):
        try:
            proven, unused = _proven_cell(cell, base, place, config, own_budgets=own_budgets)
            first = seen.setdefault(proven.model_dump_json(), i)
            if first != i:
                raise ConfigError(f"{place}: at {_shown(cell)}: the same configuration as at {places[first]}")
        except ConfigError as fault:
            faults.append(fault)
            continue
        idle = unused if idle is None else idle & unused
    if faults:
        raise together(faults)
    return Proof(len(cells), idle or frozenset())


def _proven_cell(
    cell: Values, base: Base, place: str, config: Built, *, own_budgets: bool
) -> tuple[RunConfig, frozenset[str]]:
    """The configuration of a cell, and the keys without effect in it. Raises ConfigError."""
    for key in cell:
        _check_key(key, base, place, may_seed=True, own_budgets=own_budgets)
    if isinstance(config, str):
        raise ConfigError(f"{place}: at {_shown(cell)}: {config}")
    unused = frozenset(base.kind.without_effect(config))
    for key in cell:
        if key in unused:
            raise ConfigError(f"{place}: {key}: has no effect at {_shown(cell)}")
    return config, unused


def prove_baseline(space: SearchSpace, base: Base, values: Values, *, learns: str) -> None:
    """See that the base file lies in the space of a sampler that learns from it.

    `values` are what it has there. Raises ConfigError.
    """
    faults = [
        space.fault(
            key,
            f"the base file's value, {json.dumps(base.values[key])}, is outside, and {learns} learns from the "
            "baseline; take it into the range or the choices, or set `baseline: false`",
        )
        for key in space.parameters
        if key not in values and key not in space.conditional
    ]
    if faults:
        raise together(faults)


def faults_of_keys(places: Mapping[str, str], base: Base) -> list[ConfigError]:
    """What is wrong with the dotted keys of a space themselves; each key with its place."""
    faults = []
    for key, place in places.items():
        try:
            _check_key(key, base, place)
        except ConfigError as fault:
            faults.append(fault)
    return faults


def _check_key(
    key: str, base: Base, place: str, *, may_seed: bool = False, own_budgets: bool = False
) -> None:
    if key not in base.values:
        section, _, last = key.rpartition(".")
        known = sorted(base.values)
        inside = [other for other in known if other.startswith(f"{key}.")]
        near = inside or [other for other in known if other.rpartition(".")[2] == last]
        beside = [other for other in known if section and other.rpartition(".")[0] == section]
        by_name = {other.rpartition(".")[2]: other for other in (*known, *beside)}
        of_section = [other.rpartition(".")[2] for other in beside or known]
        if not near and (found := meant(last, of_section, elsewhere=list(by_name))):
            near = [by_name[found]]
        allowed = ", ".join(beside) or f"keys of {base.document.name}"
        hint = f", did you mean {near[0]!r}?" if near else f", allowed: {allowed}"
        raise ConfigError(f"{place}: {key}: {'a section, not a key' if inside else 'unknown key'}{hint}")
    if base.kind.is_common(key, own_budgets=own_budgets):
        raise ConfigError(
            f"{place}: {key}: no trial may change it, because trials would not be comparable; "
            "give it under `fixed`"
        )
    if key == "seed" and not may_seed:
        raise ConfigError(
            f"{place}: seed: not a parameter to search; a design repeats itself over its `seeds`"
        )


def _points(space: SearchSpace, rng: random.Random) -> Iterator[Values]:
    for key, parameter in space.parameters.items():
        chosen = {ancestor: values[0] for ancestor, values in space.requirements(key).items()}
        for corner in parameter.corners():
            yield _completed(space, {**chosen, key: corner})
    corners = list(islice(_combinations(space, {}, list(space.parameters)), MAX_COMBINATIONS + 1))
    if len(corners) > MAX_COMBINATIONS:
        corners = [_point(space, lambda _, p: rng.choice(p.corners())) for _ in range(MAX_COMBINATIONS)]
    yield from corners
    for _ in range(RANDOM_POINTS):
        yield _point(space, lambda _, parameter: _drawn(parameter, rng))


def _point(space: SearchSpace, choose: Callable[[str, Parameter], Any]) -> Values:
    values: Values = {}
    for key, parameter in space.parameters.items():
        if space.is_active(key, values):
            values[key] = choose(key, parameter)
    return values


def _completed(space: SearchSpace, chosen: Mapping[str, Any]) -> Values:
    """The point with these values, its other parameters at their first corner."""
    return _point(space, lambda key, parameter: chosen.get(key, parameter.corners()[0]))


def _combinations(space: SearchSpace, values: Values, keys: list[str]) -> Iterator[Values]:
    if not keys:
        yield values
    elif not space.is_active(keys[0], values):
        yield from _combinations(space, values, keys[1:])
    else:
        for corner in space.parameters[keys[0]].corners():
            yield from _combinations(space, {**values, keys[0]: corner}, keys[1:])


def _drawn(parameter: Parameter, rng: random.Random) -> Any:
    if isinstance(parameter, CategoricalParameter):
        return rng.choice(parameter.choices)
    low, high, step = parameter.low, parameter.high, parameter.step
    if parameter.log:
        value = min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)
        return value if isinstance(parameter, FloatParameter) else round(value)
    if step is None:
        return rng.uniform(low, high)
    return min(low + step * rng.randint(0, round((high - low) / step)), high)


def _blamed(space: SearchSpace, base: Base, values: Values) -> tuple[Values, ConfigError]:
    """The parameters of which another value would mend the fault at `values`, and the fault.

    Where no single one would, those that still spoil the base file when all others are left alone.
    """

    def mends(key: str) -> bool:
        others = (corner for corner in space.parameters[key].corners() if not same(corner, values[key]))
        return any(not isinstance(base.built(_completed(space, {**values, key: v})), str) for v in others)

    blamed = {key: value for key, value in values.items() if mends(key)}
    fault = base.built(values)
    if not blamed:
        blamed = dict(values)
        for key in values:
            fewer = {other: value for other, value in blamed.items() if other != key}
            if isinstance(base.built(fewer), str):
                blamed = fewer
        fault = base.built(blamed)
    place = space.places.get(next(iter(blamed)), "search space")
    return blamed, ConfigError(f"{place}: at {_shown(blamed)}: {fault}")


def _without_effect(space: SearchSpace, base: Base, values: Values, key: str) -> ConfigError:
    """The fault that `key` changes nothing at `values`, with the condition that would mend it."""

    def works(parent: str, choice: Any) -> bool:
        point = _completed(space, {**values, parent: choice})
        config = base.built(point)
        return not isinstance(config, str) and key in point and key not in base.kind.without_effect(config)

    for parent, parameter in space.parameters.items():
        if parent in values and parent != key and isinstance(parameter, CategoricalParameter):
            working = [choice for choice in parameter.choices if works(parent, choice)]
            if working:
                given, when = _shown({parent: values[parent]}), shown_value(working)
                return space.fault(key, f"has no effect at {given}; give it when: {{{parent}: {when}}}")
    others = _shown(_causes(space, base, values, key))
    return space.fault(key, f"has no effect{f' at {others}' if others else ''}; take it out of the space")


def _causes(space: SearchSpace, base: Base, values: Values, key: str) -> Values:
    """The values, other than that of `key`, whose change would give `key` an effect."""
    causes: Values = {}
    for other, value in values.items():
        for corner in space.parameters[other].corners() if other != key else ():
            config = base.built(_completed(space, {**values, other: corner}))
            if not isinstance(config, str) and key not in base.kind.without_effect(config):
                causes[other] = value
    return causes


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {shown_value(value)}" for key, value in values.items())
