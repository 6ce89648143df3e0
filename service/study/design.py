"""A design: configurations that are all run, in place of a search.

They come as a list, as a grid, one change at a time from the base file, or by taking changes back from a winner;
these may stand together. A configuration with its seeds is an arm. Runs are ordered with the seeds outermost:
a study that is stopped early has compared the same arms on the same seeds.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any

from pydantic import Field, model_validator

from model.config.section import Section
from model.config.yaml_tree import KeyPath
from service.study.parameters import CategoricalParameter, same
from service.study.search_space import SearchSpace, Values

MAX_CELLS = 10_000
"""Configurations in the largest design; more is a mistake in a grid."""
BASELINE = "baseline"
"""The arm of the base file as it is."""
BUDGETS = ("training.epochs", "training.tokens", "training.steps")
"""The keys of a budget, of which a configuration has one."""

_Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
_Choices = Annotated[tuple[Any, ...], Field(min_length=1)]
_Axes = Annotated[dict[str, _Choices], Field(min_length=1)]


@dataclass(frozen=True)
class Cell:
    """One configuration of a design."""

    path: KeyPath
    """Where it was given, under `design`."""
    arm: str
    """Its name, shared by the runs that differ in their seed alone."""
    values: Values
    """Overrides of the base file."""


class DesignConfig(Section):
    """Configurations by dotted key. A budget in one of them takes the place of the base file's."""

    entries: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)] | None = Field(None, alias="list")
    """Each a set of values, and the name of its arm under `arm`, which is made of the values where left out."""
    grid: _Axes | None = None
    """Values of which every combination is run, the last key changing fastest."""
    one_at_a_time: _Axes | None = None
    """Values of which each is run alone, all else as in the base file."""
    leave_one_out: Annotated[dict[str, Any], Field(min_length=1)] | None = None
    """A winner's values: run all together, then with one after the other back at the base file's."""
    seeds: _Seeds | None = None
    """All configurations are run with the first of these as `seed`, then all with the next."""

    @model_validator(mode="after")
    def _can_be_listed(self) -> "DesignConfig":
        if all(kind is None for kind in (self.entries, self.grid, self.one_at_a_time, self.leave_one_out)):
            raise ValueError("needs list, grid, one_at_a_time or leave_one_out, given none of them")
        count = len(self.entries or ()) + sum(map(len, (self.one_at_a_time or {}).values()))
        count += math.prod(map(len, self.grid.values())) if self.grid else 0
        count += len(self.leave_one_out) + 1 if self.leave_one_out else 0
        count *= len(self.seeds or (None,))
        if count > MAX_CELLS:
            raise ValueError(f"must have at most {MAX_CELLS} configurations, given {count}")
        for entry in self.entries or ():
            if "arm" in entry and not (isinstance(entry["arm"], str) and entry["arm"].strip()):
                raise ValueError(f"arm must be a name, given {json.dumps(entry['arm'])}")
        self._check_cells()
        return self

    def _check_cells(self) -> None:
        arms: dict[str, Values] = {}
        for cell in self.cells():
            values = {key: value for key, value in cell.values.items() if key != "seed"}
            if self.seeds and "seed" in cell.values:
                raise ValueError("needs either seeds or the key seed in its configurations, given both")
            if arms.setdefault(cell.arm, values) != values:
                raise ValueError(f"an arm has one configuration, given two for {cell.arm!r}")
            budgets = [key for key in BUDGETS if values.get(key) is not None]
            if len(budgets) > 1:
                raise ValueError(f"a configuration has one budget, given {' and '.join(budgets)}")

    def cells(self, *, of_gpt: bool = True) -> list[Cell]:
        """Each configuration once, without `seeds`; a budget of the built-in GPT displaces its other two."""
        given: list[tuple[KeyPath, str | None, Values]] = []
        for i, entry in enumerate(self.entries or ()):
            values = {key: value for key, value in entry.items() if key != "arm"}
            given.append((("list", i), entry.get("arm"), values))
        if self.grid:
            combinations = product(*self.grid.values())
            given += [(("grid",), None, dict(zip(self.grid, c, strict=True))) for c in combinations]
        for key, choices in (self.one_at_a_time or {}).items():
            given += [(("one_at_a_time", key), None, {key: choice}) for choice in choices]
        if winner := self.leave_one_out:
            given.append((("leave_one_out",), "winner", dict(winner)))
            for left in winner:
                rest = {key: value for key, value in winner.items() if key != left}
                given.append((("leave_one_out", left), f"winner without {left}", rest))
        whole = _with_one_budget if of_gpt else dict
        return [Cell(path, arm or arm_name(values), whole(values)) for path, arm, values in given]

    def repeated(self, cells: Sequence[Cell]) -> list[Cell]:
        """All of them with the first seed, then all with the next."""
        if not self.seeds:
            return list(cells)
        return [replace(cell, values={**cell.values, "seed": seed}) for seed in self.seeds for cell in cells]


def arm_name(values: Mapping[str, Any]) -> str:
    """A name made of a configuration's values: `lr 0.001, batch_size 20`."""
    keys = [key for key in values if key != "seed"]
    last = [key.rpartition(".")[2] for key in keys]
    names = [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]
    return ", ".join(f"{n} {shown_value(values[k])}" for n, k in zip(names, keys, strict=True)) or BASELINE


def shown_value(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown_value, value))}]"
    return json.dumps(value)


def distinct(cells: Sequence[Cell], identity: Callable[[Cell], object]) -> list[Cell]:
    """The cells without those that are the same configuration as an earlier one.

    One that is given twice in the same way stays, for the proof to refuse; changes from the base file may each
    come back to it.
    """
    kept: list[Cell] = []
    first: dict[object, Cell] = {}
    for cell in cells:
        known = first.setdefault(identity(cell), cell)
        twice = known.path[:1] == cell.path[:1] and cell.path[:1] != ("one_at_a_time",)
        if known is cell or twice:
            kept.append(cell)
    return kept


def space_of(cells: Sequence[Values], base: Mapping[str, Any]) -> SearchSpace:
    """What differs between the cells, as a space of choices, so that its trials have parameters to show.

    Args:
        cells: Values by dotted key.
        base: All values of the base file by dotted key; they stand for what a cell leaves out.
    """
    choices: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for cell in cells for key in cell):
        for value in (cell.get(key, base.get(key)) for cell in cells):
            if not any(same(value, known) for known in choices.setdefault(key, [])):
                choices[key].append(value)
    return SearchSpace(
        {
            key: CategoricalParameter(type="categorical", choices=tuple(values))
            for key, values in choices.items()
            if len(values) > 1
        }
    )


def _with_one_budget(values: Values) -> Values:
    """`values`, whose budget, if they have one, displaces whatever kind the base file has."""
    if all(values.get(key) is None for key in BUDGETS):
        return values
    return {**dict.fromkeys(BUDGETS), **values}
