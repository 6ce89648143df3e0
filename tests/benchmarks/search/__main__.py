"""Tokens to a good configuration, for every way to search: replayed on recorded losses.

    .venv/bin/python -m tests.benchmarks.search [--tables samplers-hard] [--seeds 40] [--only thaw] [--workers 1]

Writes tests/benchmarks/results/search.json, a row for each way and table as soon as it is found, and search.md. Rows
that are not measured now stay as they are there. The runs of others are read where --lm-runs names their file; other
tools are compared where the environment has them (`search/peers.py`). With --losses it is the best losses on the way
that are compared, whatever is found (losses.json).

    .venv/bin/python -m tests.benchmarks.search --record samplers-hard samplers-hard-2

writes the runs of these studies to studies/samplers-hard/runs.json, from the storage.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import optuna

from service.report.figures import static
from service.settings import ROOT, Settings
from service.study import definition
from tests.benchmarks import loss_table, recorded_runs
from tests.benchmarks.loss_table import Table
from tests.benchmarks.samplers import TABLE, on_one_thread
from tests.benchmarks.search import figure, losses, pool, surrogate
from tests.benchmarks.search.arms import ALL, DEFAULT, THAW
from tests.benchmarks.search.rows import Row, row, write_lines
from tests.benchmarks.search.surrogate import Runs, Surrogate

RESULTS = Path(__file__).parents[1] / "results"
RUNS = 100
"""Of random search, whose best loss is the target; also what a search may spend."""
WORKERS = (1, 8)

HARD = ROOT / "studies" / "samplers-hard"
RECORDED = "runs.json"
LM_RUNS = "lm_runs"

ABOUT = {
    "samplers": "The 288 cells of `studies/samplers`: five hyperparameters, all numbers, one hill.\n",
    "samplers-hard": """\
A Gaussian process of the runs of `studies/samplers-hard`, whose README says how near it comes to them: thirteen
hyperparameters with conditions, three optimizers, two schedules, configurations that diverge. Optuna's own process
knows no conditions; there it searches a space in which every parameter always exists.
""",
    "samplers-hard, forest": "The same runs, by a forest: what is found does not rest on the kind of model.\n",
    LM_RUNS: """\
252 runs by others (30 to 120 million parameters, eleven hyperparameters, an evaluation at half of the budget and one at
its end), as a pool: a search gets the nearest run that it has not had, `thaw` chooses among the runs themselves.
Sought is the best for its compute.
""",
}

PARTS = {
    "model, pauses and runs of another study": DEFAULT,
    "model and pauses": THAW,
    "the model, whole trials": ("thaw, no pauses", "none"),
    "pauses, TPE in the model's place": ("TPE", "halving with promotion"),
    "neither: TPE, whole trials": ("TPE", "none"),
    "model, pauses and runs of the same study": ("thaw, prior right", "pauses"),
    "model and pauses, the first trial run whole": ("thaw, first trial whole", "pauses"),
}
"""What is taken away or added, and what does it."""

_searched: Table
"""Of a process that searches."""


def hard_runs() -> Runs:
    """What was recorded for `studies/samplers-hard`."""
    return surrogate.read(HARD / RECORDED, definition.load(HARD).space)


def tables(lm_runs: Path | None) -> dict[str, Callable[[], Table]]:
    """What makes each table, by its name; that of the runs of others where their file is given."""
    found: dict[str, Callable[[], Table]] = {
        "samplers": lambda: loss_table.read(TABLE),
        "samplers-hard": lambda: Surrogate.fitted(hard_runs(), "process"),
        "samplers-hard, forest": lambda: Surrogate.fitted(hard_runs(), "forest"),
    }
    return found if lm_runs is None else found | {LM_RUNS: lambda: pool.read(lm_runs)}


def _search_on(table: Table) -> None:
    global _searched
    _searched = table
    on_one_thread()
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def ratio(job: tuple[tuple[str, str], int, int]) -> float:
    """Of one search: tokens to the target as a share of random search's, infinite where it does not arrive.

    Its searcher and pruner, workers, and seed.
    """
    arm, workers, seed = job
    table = _searched
    budget_tokens = RUNS * table.cell_tokens
    target = table.random_best(RUNS)
    found = ALL[arm].search(table, seed=seed, budget_tokens=budget_tokens, workers=workers, target=target)
    return found.reached(target) / (table.random_trials(target) * table.cell_tokens)


def measure(
    name: str,
    table: Table,
    arms: list[tuple[str, str]],
    *,
    seeds: int,
    processes: int,
    workers: Sequence[int] = WORKERS,
) -> Iterator[Row]:
    """A row for each arm that can search the table and number of workers, from the seeds 0, 1, 2, ..."""
    table.random_best(RUNS)  # before the processes part: a model is asked once
    with ProcessPoolExecutor(processes, initializer=_search_on, initargs=(table,)) as workers_of:
        for arm in arms:
            if not ALL[arm].fits(table):
                continue
            for number in workers:
                ratios = list(workers_of.map(ratio, [(arm, number, seed) for seed in range(seeds)]))
                yield row(name, *arm, number, ratios, default=arm == DEFAULT)


def _ablation(rows: list[Row]) -> str:
    found = {(one.table, one.searcher, one.pruner, one.workers): one.shown_ratio for one in rows}
    columns = [column for column in product(ABOUT, WORKERS) if (column[0], *THAW, column[1]) in found]
    lines = [
        ["", *(f"{table}, {workers}" for table, workers in columns)],
        ["---", *("---:" for _ in columns)],
    ]
    for name, arm in PARTS.items():
        lines.append([name, *(found.get((table, *arm, workers), "–") for table, workers in columns)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(rows: list[Row], kinds: Sequence[losses.Kind] = ()) -> str:
    """What was found, for people: by row, and by kind of search."""
    tables = ""
    for name in dict.fromkeys(one.table for one in rows):
        of_table = sorted(
            (one for one in rows if one.table == name),
            key=lambda one: (one.workers, one.ratio is None, one.ratio or 0.0),
        )
        tables += f"""
## {name}

{ABOUT.get(name, "")}
| searcher | pruner | workers | tokens, of random's | mean | arrived | seeds |
|---|---|---:|---:|---:|---:|---:|
{"".join(one.shown() for one in of_table)}"""
    return f"""# Tokens to a good configuration

Replayed on tables of real training runs. A search arrives when a whole trial has the loss that random search has after
{RUNS} whole runs, in the median; the table says at which share of random search's tokens that was, as a median over
seeds with its 95 % bootstrap interval, the mean (a search that does not arrive counts as 1), and how many arrived
before they had spent as much as random search. Workers train side by side at one speed, and the tokens of all count; a
trial may pause at a rung and be advanced later, except under pruners that stop. In bold what a study gets that names
neither sampler nor pruner: `thaw`, which begins with what the recorded runs of `studies/samplers-hard` and
`studies/samplers` say of its settings ("prior real"); on a table that is made of one of them, with the other's alone.
Made by `make bench-search`.

![Best loss against training](search.png)

The median of 20 searches by one worker, and half of them in each band (`--figure`). `thaw` knows no other runs there.
More ways to search, and other tools (`--losses`): best loss of a whole trial after as much training as so many whole
runs take, the median of the searches, and the quartiles.

{losses.shown(kinds, DEFAULT)}## What each part is worth

Tokens as a share of random search's, median over seeds; columns are tables and numbers of workers. What a search finds
that stops by itself is in [stopping.md](stopping.md).

{_ablation(rows)}{tables}
With eight workers nothing can be below 0.08: no whole run ends sooner. A prior is an earlier study of 60 whole
trials: of the same cells with a noise of 0.01 nats (right), of cells two steps on along the rate (shifted), with the
worst cells the best (reversed), or with losses drawn at random (chance). Or it is what was recorded elsewhere (real):
for `samplers` those 130 runs of `samplers-hard` that had what its cells have for optimizer, SAM and schedule, a third
as long; for `samplers-hard` the cells of `samplers`, all with AdamW, where Muon is best; for `lm_runs` 120 runs of
`samplers-hard` and those cells, of models 200 to 1,000 times smaller, on other text. A study's baseline is run to its
end whatever it shows, which costs a search up to one whole trial (first trial whole); the other rows have none.
Searchers whose trials pause are those of `service/search`; samplers and pruners are those that a study file names.
Other tools (`search/peers.py`) are asked and told as they come, with their own defaults.
"""


def _rows(results: Path) -> list[Row]:
    path = results / "search.json"
    known = json.loads(path.read_text()) if path.exists() else []
    return [Row(**one | {"default": (one["searcher"], one["pruner"]) == DEFAULT}) for one in known]


def write(results: Path, found: Row) -> None:
    """Put a row in its place among those that are known, and the page anew."""
    rows = [one for one in _rows(results) if one.key != found.key] + [found]
    write_lines(results / "search.json", [one.as_dict() for one in rows])
    write_page(results)


def write_page(results: Path) -> None:
    """Of all that is known."""
    page_of_all = page(_rows(results), losses.read(results))
    (results / "search.md").write_text(page_of_all, encoding="utf-8")


def main() -> None:
    """Replay, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", metavar="TABLE", help="all, where left out")
    parser.add_argument("--lm-runs", type=Path, metavar="FILE", help="lm_runs.csv, where it is")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--only", nargs="+", help="searchers, or searcher:pruner")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--record", nargs="+", metavar="STUDY", help="write these studies' runs, and no more")
    parser.add_argument("--losses", action="store_true", help="compare losses on the way, by one worker")
    parser.add_argument("--figure", action="store_true", help="draw search.png and .svg, and no more")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.record:
        recorded_runs.write(Settings.from_environment(), arguments.record, HARD / RECORDED)
        return
    if arguments.figure:
        drawn = figure.draw(tables(None), seeds=20, processes=arguments.processes, target_runs=RUNS)
        static.write(drawn, arguments.out)
        return
    only = arguments.only
    arms = [arm for arm in ALL if not only or arm[0] in only or ":".join(arm) in only]
    made = tables(arguments.lm_runs)
    for name in arguments.tables or made:
        table, often = made[name](), {"seeds": arguments.seeds, "processes": arguments.processes}
        if arguments.losses:
            for kind in losses.measured(name, table, arms, **often):
                print(kind, flush=True)
                losses.write(arguments.out, kind)
                write_page(arguments.out)
            continue
        for found in measure(name, table, arms, workers=arguments.workers, **often):
            print(found.shown(), end="", flush=True)
            write(arguments.out, found)  # at once: the next may take an hour


if __name__ == "__main__":
    main()
