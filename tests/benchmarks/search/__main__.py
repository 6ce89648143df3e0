"""Tokens to a good configuration, for every way to search: replayed on recorded losses.

    .venv/bin/python -m tests.benchmarks.search [--seeds 40] [--only thaw] [--processes 2]

Writes tests/benchmarks/results/search.json, a row for each way, and search.md. With --only, the other rows
stay as they are there.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import optuna

from tests.benchmarks import loss_table
from tests.benchmarks.loss_table import LossTable
from tests.benchmarks.samplers import TABLE
from tests.benchmarks.search.arms import ARMS, DEFAULT
from tests.benchmarks.search.rows import Row, row

RESULTS = Path(__file__).parents[1] / "results"
RUNS = 100
"""Of random search, whose best loss is the target; also what a search may spend."""
WORKERS = (1, 8)

Job = tuple[LossTable, tuple[str, str], int, int]


def ratio(job: Job) -> float:
    """Of one search: tokens to the target as a share of random search's, infinite where it does not arrive.

    Its searcher and pruner, workers, and seed, on a table.
    """
    table, arm, workers, seed = job
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    budget_tokens = RUNS * table.cell_tokens
    target = table.random_best(RUNS)
    found = ARMS[arm].search(table, seed=seed, budget_tokens=budget_tokens, workers=workers, target=target)
    return found.reached(target) / (table.random_trials(target) * table.cell_tokens)


def measure(
    name: str, table: LossTable, arms: list[tuple[str, str]], *, seeds: int, processes: int
) -> list[Row]:
    """A row for each arm and number of workers, from the seeds 0, 1, 2, ..."""
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the searches are many
    rows = []
    with ProcessPoolExecutor(processes) as pool:
        for arm in arms:
            for workers in WORKERS:
                ratios = list(pool.map(ratio, [(table, arm, workers, seed) for seed in range(seeds)]))
                rows.append(row(name, *arm, workers, ratios, default=arm == DEFAULT))
                print(rows[-1].shown(), end="", flush=True)
    return rows


def page(rows: list[Row]) -> str:
    """What was found, for people."""
    tables = ""
    for name in dict.fromkeys(one.table for one in rows):
        of_table = sorted(
            (one for one in rows if one.table == name),
            key=lambda one: (one.workers, one.ratio is None, one.ratio or 0.0),
        )
        tables += f"""
## `studies/{name}`

| searcher | pruner | workers | tokens, of random's | arrived | seeds |
|---|---|---:|---:|---:|---:|
{"".join(one.shown() for one in of_table)}"""
    return f"""# Tokens to a good configuration

Replayed on tables of real training runs. A search arrives when a whole trial has the loss that random search has after
{RUNS} whole runs, in the median; the table says at which share of random search's tokens that was, as a median over
seeds with its 95 % bootstrap interval, and how many arrived before they had spent as much as random search. Workers
train side by side at one speed, and the tokens of all count; a trial may pause at a rung and be advanced later, except
under pruners that stop. In bold what a study gets that names neither sampler nor pruner. Made by `make bench-search`.
{tables}
With eight workers nothing can be below 0.08 here: no whole run ends sooner. A prior is an earlier study of 60 whole
trials: of the same cells with a noise of 0.01 nats (right), of cells two steps on along the rate (shifted), with the
worst cells the best (reversed), or with losses drawn at random (chance). Searchers whose trials pause are those of
`service/search`; samplers and pruners are those that a study file names.
"""


def main() -> None:
    """Replay, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--only", nargs="+", help="searchers, or searcher:pruner")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    only = arguments.only
    arms = [arm for arm in ARMS if not only or arm[0] in only or ":".join(arm) in only]
    rows = measure(
        "samplers", loss_table.read(TABLE), arms, seeds=arguments.seeds, processes=arguments.processes
    )
    path = arguments.out / "search.json"
    if only and path.exists():
        known = [
            Row(**one | {"default": (one["searcher"], one["pruner"]) == DEFAULT})
            for one in json.loads(path.read_text())
        ]
        new = {one.key for one in rows}
        rows = [one for one in known if one.key not in new] + rows
    lines = ",\n".join(json.dumps(one.as_dict()) for one in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    (arguments.out / "search.md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
