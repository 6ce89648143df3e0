"""Best loss against training, for every way to search: one worker, whatever is found on the way."""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import optuna

from tests.benchmarks.loss_table import Table
from tests.benchmarks.samplers import on_one_thread
from tests.benchmarks.search.arms import ARMS
from tests.benchmarks.search.peers import PEERS

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
            if not (ARMS | PEERS)[arm].fits(table):
                continue
            found = list(pool.map(_searched, [(table, arm, seed) for seed in range(seeds)]))
            at = [_quartiles(losses) for losses in zip(*found, strict=True)]
            searcher, pruner = arm
            yield {"table": name, "searcher": searcher, "pruner": pruner, "seeds": seeds, "quartiles": at}


def _searched(job: tuple[Table, tuple[str, str], int]) -> list[float]:
    table, arm, seed = job
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    budget = WHOLE_RUNS[-1] * table.cell_tokens
    found = (ARMS | PEERS)[arm].search(table, seed=seed, budget_tokens=budget, workers=1, target=-math.inf)
    return [found.at(runs * table.cell_tokens) for runs in WHOLE_RUNS]


def _quartiles(losses: Sequence[float]) -> list[float | None]:
    """Where some are infinite, a mean of two losses would be no loss."""
    ordered = sorted(losses)
    of = (ordered[round(share * (len(ordered) - 1))] for share in (0.25, 0.5, 0.75))
    return [round(loss, 4) if math.isfinite(loss) else None for loss in of]


def write(results: Path, found: Kind) -> None:
    """Put one in its place among those that are known."""
    kinds = [one for one in read(results) if any(one[key] != found[key] for key in _KEYS)]
    lines = ",\n".join(json.dumps(one) for one in [*kinds, found])
    (results / FILE).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


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
    shown = ("–" if end is None else f"{end:.3f}" for end in (middle, low, high))
    return "{} ({} to {})".format(*shown)
