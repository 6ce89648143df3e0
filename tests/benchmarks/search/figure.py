"""The picture of the comparison: best loss against training, on a table with one hill and on one with conditions."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor

from service.report.figures.plots import Axis, Chart, Plot, Series
from tests.benchmarks.loss_table import Search, Table
from tests.benchmarks.samplers import band, on_one_thread
from tests.benchmarks.search.arms import ARMS, THAW

SHOWN: Mapping[str, tuple[tuple[str, str], ...]] = {
    "thaw": (THAW,),
    "GP": (("GP", "none"), ("GP, no conditions", "none")),
    "TPE, median pruner": (("TPE", "median, from 1/4"),),
    "TPE": (("TPE", "none"),),
    "random": (("random", "none"),),
}
"""Searchers by name; of several the first that can search the table."""
PANELS = {
    "samplers": "288 recorded runs: five hyperparameters",
    "samplers-hard": "a model of 695 runs: thirteen, with conditions",
}
WHOLE_RUNS = 25
"""As far as is drawn."""


def _searched(job: tuple[Table, tuple[str, str], int]) -> Search:
    table, arm, seed = job
    budget = WHOLE_RUNS * table.cell_tokens
    return ARMS[arm].search(table, seed=seed, budget_tokens=budget, workers=1, target=-math.inf)


def draw(
    tables: Mapping[str, Callable[[], Table]], *, seeds: int, processes: int | None, target_runs: int
) -> Plot:
    """Median and quartiles of the best final loss so far, one worker."""
    charts = []
    for name, title in PANELS.items():
        table, series = tables[name](), []
        cell = table.cell_tokens
        tokens = [n * cell / 4 for n in range(4, 4 * WHOLE_RUNS + 1)]
        with ProcessPoolExecutor(processes, initializer=on_one_thread) as pool:
            for style, (shown, arms) in enumerate(SHOWN.items()):
                arm = next(arm for arm in arms if ARMS[arm].fits(table))
                found = list(pool.map(_searched, [(table, arm, seed) for seed in range(seeds)]))
                print(name, shown, flush=True)
                series.append(band(shown, found, tokens, unit=cell, style=style))
        target = table.random_best(target_runs)
        ends = (1.0, float(WHOLE_RUNS))
        series.append(
            Series(f"random after {target_runs} runs", ends, (target, target), style=6, dashed=True)
        )
        axes = Axis("training, in whole runs"), Axis("best val_loss, nats per character")
        charts.append(Chart(*axes, tuple(series), title=title))
    return Plot("search", "Best loss against training", "", tuple(charts))
