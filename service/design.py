"""A design: a fixed list of configurations in place of a search."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any

from pydantic import Field, model_validator

from model.yaml_tree import KeyPath, Section
from service.parameters import CategoricalParameter, same
from service.search_space import SearchSpace, Values

MAX_CELLS = 10_000
"""Configurations in the largest design; more is a mistake in a grid."""

_Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
_Choices = Annotated[tuple[Any, ...], Field(min_length=1)]


class DesignConfig(Section):
    """Configurations that are all run, in this order."""

    entries: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)] | None = Field(None, alias="list")
    """Each a set of values by dotted key."""
    grid: Annotated[dict[str, _Choices], Field(min_length=1)] | None = None
    """Values by dotted key, of which every combination is run, the last key changing fastest."""
    seeds: _Seeds | None = None
    """Each configuration is run once with each of these as `seed`, one after the other."""

    @model_validator(mode="after")
    def _can_be_listed(self) -> "DesignConfig":
        if (self.entries is None) == (self.grid is None):
            raise ValueError(f"needs either list or grid, given {'neither' if self.grid is None else 'both'}")
        if self.seeds and any("seed" in cell for cell in self.entries or (self.grid or {},)):
            raise ValueError("needs either seeds or the key seed in its configurations, given both")
        count = len(self.entries or ()) or math.prod(map(len, (self.grid or {}).values()))
        count *= len(self.seeds or (None,))
        if count > MAX_CELLS:
            raise ValueError(f"must have at most {MAX_CELLS} configurations, given {count}")
        return self

    def cells(self) -> list[tuple[KeyPath, Values]]:
        """Each configuration's values, with the path under `design` where it was given."""
        cells: list[tuple[KeyPath, Values]]
        if self.entries is not None:
            cells = [(("list", i), cell) for i, cell in enumerate(self.entries)]
        else:
            grid = self.grid or {}
            cells = [(("grid",), dict(zip(grid, cell, strict=True))) for cell in product(*grid.values())]
        seeds: list[Values] = [{"seed": seed} for seed in self.seeds] if self.seeds else [{}]
        return [(path, {**cell, **seed}) for path, cell in cells for seed in seeds]


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
