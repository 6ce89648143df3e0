"""Best loss against training, for every way to search: one worker, whatever is found on the way."""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import optuna

from tests.benchmarks.loss_table import Search, Table
from tests.benchmarks.samplers import on_one_thread, quartiles
from tests.benchmarks.search.arms import ALL
from tests.benchmarks.search.rows import number, write_lines

WHOLE_RUNS = (5, 10, 25)
"""Whole runs' tokens after which the best losses are compared."""
FILE = "losses.json"
_KEYS = "table", "searcher", "pruner"

Kind = dict[str, Any]
"""A line of `FILE`: table, searcher, pruner, seeds, and for each of `WHOLE_RUNS` the lower quartile, the median and the
upper quartile of the best final loss; null where a search has none yet."""


def measured(
    name: str, table: Table, arms: Sequence[tuple[str, str]], *, seeds: int, processes: int | None
) -> Iterator[Kind]:
    """Of each arm that can search the table."""
    with ProcessPoolExecutor(processes, initializer=on_one_thread) as pool:
        for arm in arms:
            if not ALL[arm].fits(table):
                continue
            found = list(pool.map(searched, [(table, arm, seed) for seed in range(seeds)]))
            at = [quartiles([one.at(runs * table.cell_tokens) for one in found]) for runs in WHOLE_RUNS]
            rounded = [[round(loss, 4) if math.isfinite(loss) else None for loss in three] for three in at]
            searcher, pruner = arm
            yield {
                "table": name,
                "searcher": searcher,
                "pruner": pruner,
                "seeds": seeds,
                "quartiles": rounded,
            }


def searched(job: tuple[Table, tuple[str, str], int]) -> Search:
    """One search to the last of `WHOLE_RUNS`: a table, searcher and pruner, and a seed."""
    table, arm, seed = job
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    budget = WHOLE_RUNS[-1] * table.cell_tokens
    return ALL[arm].search(table, seed=seed, budget_tokens=budget, workers=1, target=-math.inf)


def write(results: Path, found: Kind) -> None:
    """Put one in its place among those that are known."""
    kinds = [one for one in read(results) if any(one[key] != found[key] for key in _KEYS)]
    write_lines(results / FILE, [*kinds, found])


def read(results: Path) -> list[Kind]:
    """All that are known."""
    path = results / FILE
    return json.loads(path.read_text()) if path.exists() else []


def shown(kinds: Sequence[Kind], default: tuple[str, str]) -> str:
    """A Markdown table of each table, the lowest losses at the end first."""
    page = ""
    for name in dict.fromkeys(one["table"] for one in kinds):
        those = [one for one in kinds if one["table"] == name]
        those.sort(key=lambda one: [median or math.inf for _, median, _ in reversed(one["quartiles"])])
        page += f"| {name} | pruner | {' | '.join(f'{n} runs' for n in WHOLE_RUNS)} | seeds |\n"
        page += "|---|---|---:|---:|---:|---:|\n"
        for one in those:
            searcher = one["searcher"]
            searcher = f"**{searcher}**" if (searcher, one["pruner"]) == default else searcher
            cells = " | ".join(_cell(*quartiles) for quartiles in one["quartiles"])
            page += f"| {searcher} | {one['pruner']} | {cells} | {one['seeds']} |\n"
        page += "\n"
    return page


def _cell(low: float | None, middle: float | None, high: float | None) -> str:
    shown = (number(end, "–") for end in (middle, low, high))
    return "{} ({} to {})".format(*shown)
