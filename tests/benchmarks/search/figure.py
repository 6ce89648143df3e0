"""The picture of the comparison: best loss against training, on a table with one hill and on one with conditions."""

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor

from service.report.figures.plots import Axis, Chart, Plot, Series
from tests.benchmarks.loss_table import Table
from tests.benchmarks.samplers import band, on_one_thread
from tests.benchmarks.search.arms import ARMS, THAW
from tests.benchmarks.search.losses import WHOLE_RUNS, searched

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


def draw(
    tables: Mapping[str, Callable[[], Table]], *, seeds: int, processes: int | None, target_runs: int
) -> Plot:
    """Median and quartiles of the best final loss so far, one worker."""
    charts = []
    for name, title in PANELS.items():
        table, series = tables[name](), []
        cell, runs = table.cell_tokens, WHOLE_RUNS[-1]
        tokens = [n * cell / 4 for n in range(4, 4 * runs + 1)]
        with ProcessPoolExecutor(processes, initializer=on_one_thread) as pool:
            for style, (shown, arms) in enumerate(SHOWN.items()):
                arm = next(arm for arm in arms if ARMS[arm].fits(table))
                found = list(pool.map(searched, [(table, arm, seed) for seed in range(seeds)]))
                print(name, shown, flush=True)
                series.append(band(shown, found, tokens, unit=cell, style=style))
        target = table.random_best(target_runs)
        ends = (1.0, float(runs))
        series.append(
            Series(f"random after {target_runs} runs", ends, (target, target), style=6, dashed=True)
        )
        axes = Axis("training, in whole runs"), Axis("best val_loss, nats per character")
        charts.append(Chart(*axes, tuple(series), title=title))
    return Plot("search", "Best loss against training", "", tuple(charts))
