"""Heat maps of two settings: for arms that differ in two numbers alone, and fill a grid."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from service.report.figures.plots import Axis, HeatMap, Plot, plot_of
from service.report.record import comparison
from service.report.record.study_record import Arm, StudyRecord
from service.statistics import mean
from service.study.search_space import leaves
from service.text.numbers import number
from service.text.quantities import shown_number

_FOLLOWS = {"seed", "training.tokens", "training.steps", "training.epochs"}
"""Keys that may differ as well: seeds, and budgets, which may follow from the two settings."""
_LEAST_FILLED = 0.75
"""Share of a grid's cells that must have an arm; others may lie beside the grid."""

Figure = Callable[[Arm], float | None]


@dataclass(frozen=True)
class ArmGrid:
    """Arms by the values of two settings."""

    x: str
    """Dotted key."""
    y: str
    arms: Mapping[tuple[float, float], Arm]
    """By the values of `x` and of `y`."""

    @property
    def xs(self) -> tuple[float, ...]:
        """Values of `x`, ascending."""
        return tuple(sorted({x for x, _ in self.arms}))

    @property
    def ys(self) -> tuple[float, ...]:
        """Values of `y`, ascending."""
        return tuple(sorted({y for _, y in self.arms}))


def build(record: StudyRecord) -> tuple[Plot, ...]:
    """The heat maps of the study's grid, on every comparison axis; none where its arms are no grid."""
    grid = None if record.tuned else find_grid(record)
    if grid is None:
        return ()
    figures: list[tuple[str, str, Figure]] = [
        ("Final loss, each arm at its own end", record.words.objective, _mean("val_loss"))
    ]
    if not record.own_code:
        figures += [at for axis in comparison.RESOURCES if (at := _at(record, axis))]
    costs: list[tuple[str, str, Figure]] = [
        ("Stability: runs that did not diverge", "share of runs", _stable),
        ("Stability: spread of the gradient norm", "standard deviation", _mean("grad_norm_std")),
        ("Stability: loss spikes", "steps a run", _mean("loss_spikes")),
        ("Throughput", f"{record.words.budget} per second", _mean("tokens_per_second")),
        ("Memory", "peak, bytes", _mean("peak_memory_bytes")),
    ]
    losses = tuple(heat for figure in figures if (heat := _heat_map(grid, *figure)))
    others = tuple(heat for figure in costs if (heat := _heat_map(grid, *figure)))
    varied = tuple(heat for heat in others if len(_numbers(heat)) > 1)
    same = (f" {h.title}: {h.text(min(_numbers(h)))} everywhere." for h in others if h not in varied)
    at_ends = (
        "Before its end an arm's schedule is unfinished. Empty: not evaluated by then, or no complete run."
    )
    found = (
        plot_of(
            "grid-loss", "The grid: loss", f"Means over the complete runs of each arm. {at_ends}", losses
        ),
        plot_of(
            "grid-cost",
            "The grid: stability, throughput, memory",
            "Means over the runs of each arm." + "".join(same),
            varied,
        ),
    )
    return tuple(plot for plot in found if plot)


def _numbers(heat: HeatMap) -> set[float]:
    return {value for row in heat.values for value in row if value is not None}


def find_grid(record: StudyRecord) -> ArmGrid | None:
    """The largest set of arms that differ in exactly two numbers and fill a grid of them, two by two or more."""
    flat = {arm.name: dict(leaves(config)) for arm in record.arms if (config := _config(arm))}
    varied = {
        key for key in set().union(*flat.values()) if len({_written(f.get(key)) for f in flat.values()}) > 1
    }
    numeric = sorted(
        key for key in varied - _FOLLOWS if all(_is_number(values.get(key)) for values in flat.values())
    )
    grids = (_grid_of(record, flat, pair, varied) for pair in itertools.combinations(numeric, 2))
    return max((grid for grid in grids if grid), key=lambda grid: len(grid.arms), default=None)


def _config(arm: Arm) -> Mapping[str, Any] | None:
    return next((run.config for run in arm.runs if run.config), None)


def _grid_of(
    record: StudyRecord, flat: Mapping[str, Mapping[str, Any]], keys: tuple[str, str], varied: set[str]
) -> ArmGrid | None:
    others = sorted(varied - _FOLLOWS - {*keys})
    rest = {name: _written([values.get(key) for key in others]) for name, values in flat.items()}
    most_common = Counter(rest.values()).most_common(1)[0][0]
    # the rate is read along x, as in the usual picture of such a grid
    x, y = sorted(keys, key=lambda key: "lr" not in key.split(".")[-1])
    arms: dict[tuple[float, float], Arm] = {}
    for arm in record.arms:
        if rest.get(arm.name) == most_common:
            arms.setdefault((flat[arm.name][x], flat[arm.name][y]), arm)
    grid = ArmGrid(x, y, arms)
    cells = len(grid.xs) * len(grid.ys)
    wide = min(len(grid.xs), len(grid.ys)) >= 2
    return grid if wide and len(arms) >= _LEAST_FILLED * cells else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _mean(metric: str) -> Figure:
    def of(arm: Arm) -> float | None:
        return mean(arm.values(metric).values())

    return of


def _stable(arm: Arm) -> float | None:
    ended = [run for run in arm.runs if run.state not in ("running", "waiting")]
    return sum(run.state != "diverged" for run in ended) / len(ended) if ended else None


def _at(record: StudyRecord, axis: comparison.Resource) -> tuple[str, str, Figure] | None:
    point = comparison.common_point(record, axis)
    if point is None:
        return None

    def of(arm: Arm) -> float | None:
        return mean(comparison.losses_within(arm, axis, point.x).values())

    return f"At equal {axis}: {number(point.x)}", record.words.objective, of


def _heat_map(grid: ArmGrid, title: str, label: str, figure: Figure) -> HeatMap | None:
    values = tuple(
        tuple(figure(grid.arms[x, y]) if (x, y) in grid.arms else None for x in grid.xs) for y in grid.ys
    )
    if all(value is None for row in values for value in row):
        return None
    x, y = (
        Axis(key, categories=tuple(map(shown_number, numbers)))
        for key, numbers in ((grid.x, grid.xs), (grid.y, grid.ys))
    )
    return HeatMap(x, y, values, label, title)
