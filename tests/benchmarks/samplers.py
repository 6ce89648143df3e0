"""How good the searches are: best loss against tokens spent, for samplers with and without pruners.

    ./hptune.sh --study samplers --workers 2            records every cell of studies/samplers, in half an hour
    .venv/bin/python -m tests.benchmarks.samplers --record      writes them to studies/samplers/runs.json
    .venv/bin/python -m tests.benchmarks.samplers [--repeats 20] [--trials 100]

The last one replays each search on the table, from several seeds and at equal tokens: minutes, most of them for the
Gaussian process. Writes tests/benchmarks/results/samplers.md with its figure, as PNG and SVG.
"""

import argparse
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import optuna
import scipy.stats
from threadpoolctl import threadpool_limits

from service.report.figures import static
from service.report.figures.plots import Axis, Chart, Plot, Series
from service.settings import ROOT, Settings
from service.study.design import arm_name
from service.study.pruners import HyperbandConfig, MedianConfig, NoPrunerConfig, SuccessiveHalvingConfig
from service.study.samplers import CmaEsConfig, GpConfig, RandomConfig, TpeConfig
from tests.benchmarks import loss_table, recorded_runs
from tests.benchmarks.loss_table import LossTable, Search

TABLE = ROOT / "studies" / "samplers" / "runs.json"
RESULT = Path(__file__).parent / "results" / "samplers.md"
SAMPLERS = {
    "random": RandomConfig(name="random"),
    "TPE": TpeConfig(),
    "GP": GpConfig(name="gp"),
    "CMA-ES": CmaEsConfig(name="cmaes"),
}
STARTS = {f"TPE, {n} at random": TpeConfig(startup_trials=n) for n in (5, 20, 40)}
"""What the random start is worth: 10 by default."""
PRUNERS = {
    "none": NoPrunerConfig(),
    "median, from 1/2": MedianConfig(name="median", warmup_fraction=0.5),
    "median, from 1/4": MedianConfig(name="median", warmup_fraction=0.25),
    "successive halving": SuccessiveHalvingConfig(name="successive_halving"),
    "hyperband": HyperbandConfig(name="hyperband"),
}
FIRST_PRUNERS = list(PRUNERS)[:2]
"""None, and the one of `studies/hn`: for what is not shown of all of them."""
WORKERS = 8
"""Of the searches in parallel."""
ALONE = [(sampler, pruner, 1) for sampler, pruner in product(SAMPLERS, PRUNERS)]
BESIDE = [
    *product(SAMPLERS, FIRST_PRUNERS, (WORKERS,)),
    *product(STARTS, FIRST_PRUNERS, (1, WORKERS)),
]
"""Samplers, pruners and workers of every search."""
Searches = dict[tuple[str, str, int], list[Search]]
SHARES = (0.1, 0.25, 0.5, 1.0)
"""Of the budget, at which losses are compared; random search's losses at the last three are the targets."""


def run_search(job: tuple[LossTable, tuple[str, str, int], int, int]) -> Search:
    """One search: a table, sampler, pruner and workers, a seed and a budget in tokens."""
    table, (sampler, pruner, workers), seed, budget_tokens = job
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return loss_table.search(
        table,
        (SAMPLERS | STARTS)[sampler],
        PRUNERS[pruner],
        seed=seed,
        budget_tokens=budget_tokens,
        workers=workers,
    )


def on_one_thread() -> None:
    """For a process beside others that search: OpenBLAS is there already, torch comes with the Gaussian process."""
    threadpool_limits(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def search_all(table: LossTable, *, repeats: int, budget_tokens: int) -> Searches:
    """Every search, from the seeds 0, 1, 2, ..."""
    searches = [*ALONE, *BESIDE]
    jobs = [(table, search, seed, budget_tokens) for search in searches for seed in range(repeats)]
    with ProcessPoolExecutor(initializer=on_one_thread) as pool:
        ended = pool.map(run_search, jobs)
        found = {}
        for search in searches:
            found[search] = [next(ended) for _ in range(repeats)]
            print(*search, sep=", ", flush=True)
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third as values that occur, the worse one of two: some may be infinite."""
    ordered, n = sorted(values), len(values)
    return ordered[n // 4], ordered[n // 2], ordered[-1 - n // 4]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median, from the binomial distribution of ranks: it assumes no shape."""
    ordered = sorted(values)
    rank = max(1, int(scipy.stats.binom.ppf(0.025, len(values), 0.5)))
    return ordered[rank - 1], ordered[-rank]


def loss_rows(table: LossTable, searches: Searches, budget_tokens: int) -> str:
    """Of searches with one worker."""
    best = table.ranked()[0]
    rows = ""
    for (sampler, pruner, _), found in searches.items():
        regrets = (quartiles([one.at(share * budget_tokens) - best for one in found]) for share in SHARES)
        shown = [f"{middle:.4f} ({low:.4f} to {high:.4f})" for low, middle, high in regrets]
        trials, pruned, repeats = (
            statistics.mean(getattr(one, name) for one in found) for name in ("trials", "pruned", "repeats")
        )
        counts = f"{trials:.0f} | {pruned / trials:.0%} | {repeats / trials:.0%}"
        rows += f"| {sampler} | {pruner} | {' | '.join(shown)} | {counts} |\n"
    return rows


def speed_rows(table: LossTable, searches: Searches, targets: Sequence[float]) -> str:
    rows = ""
    for (sampler, pruner, workers), found in searches.items():
        shown = []
        for target in targets:
            random_tokens = table.random_trials(target) * table.cell_tokens
            ratios = [one.reached(target) / random_tokens for one in found]
            low, high = median_interval(ratios)
            reached = sum(map(math.isfinite, ratios)) / len(ratios)
            middle = statistics.median_high(ratios)
            shown.append(f"{as_ratio(middle)} ({as_ratio(low)} to {as_ratio(high)}) | {reached:.0%}")
        rows += f"| {sampler} | {pruner} | {workers} | {' | '.join(shown)} |\n"
    return rows


def as_ratio(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "never"


def band(
    name: str, found: Sequence[Search], tokens: Sequence[float], *, unit: float = 1.0, style: int
) -> Series:
    """Median and quartiles of the best losses after so many tokens, where most searches have one; x by `unit`."""
    points = [(at / unit, *quartiles([one.at(at) for one in found])) for at in tokens]
    x, low, middle, high = zip(*(point for point in points if all(map(math.isfinite, point))), strict=True)
    return Series(name, x, middle, low=low, high=high, style=style)


def figure(table: LossTable, searches: Searches, trials: int) -> Plot:
    """Best loss against tokens with one worker, without pruning and with the first of the pruners."""
    panels = []
    for pruner in FIRST_PRUNERS:
        series = []
        for style, sampler in enumerate(SAMPLERS):
            tokens = [float(n * table.cell_tokens) for n in range(3, trials + 1)]
            series.append(band(sampler, searches[sampler, pruner, 1], tokens, style=style))
        shown = series[-1].x
        expected = tuple(table.random_best(round(x / table.cell_tokens)) for x in shown)
        series.append(Series("random, exact", shown, expected, style=6, dashed=True))
        axes = Axis("training tokens of all trials"), Axis("best val_loss, nats per character")
        panels.append(Chart(*axes, tuple(series), title=f"pruner: {pruner}"))
    return Plot("samplers", "Best loss against tokens", "", tuple(panels))


def page(table: LossTable, searches: Searches, *, repeats: int, trials: int) -> str:
    ranked = table.ranked()
    budget_tokens = trials * table.cell_tokens
    counts = [round(share * trials) for share in SHARES]
    targets = [table.random_best(count) for count in counts[1:]]
    best = next(cell for cell, curve in table.losses.items() if curve[-1] == ranked[0])
    values = {key: choices[i] for (key, choices), i in zip(table.axes.items(), best, strict=True)}
    whole = [curve for curve in table.losses.values() if len(curve) == len(table.rungs)]
    ends = [curve[-1] for curve in whole]
    ranks = [
        scipy.stats.spearmanr([curve[i] for curve in whole], ends).statistic
        for i in range(len(table.rungs) - 1)
    ]
    alone = {search: searches[search] for search in ALONE}
    beside = {search: searches[search] for search in BESIDE}
    at = " | ".join(f"{share:.0%} ({count} runs)" for share, count in zip(SHARES, counts, strict=True))
    reach = " | ".join(
        f"{target:.4f}, random's in {table.random_trials(target)} runs | reached" for target in targets
    )
    speed_head = f"| sampler | pruner | workers | {reach} |\n|---|---|---:|{'---:|---:|' * len(targets)}"
    return f"""# How good the searches are

Replayed on `studies/samplers/runs.json`: {len(ranked)} real training runs of {table.cell_tokens:,} tokens, one for
every combination of {len(table.axes)} hyperparameters, on one seed. A search has {budget_tokens:,} tokens, {trials}
whole runs, and one worker; a pruned trial costs what it trained, and a cell that is asked for again costs its tokens
again. {repeats} searches each, seeds 0 to {repeats - 1}; from one seed, all samplers but CMA-ES begin with the same ten
draws. Samplers see positions on an axis, in order. Made by `python -m tests.benchmarks.samplers`.

The best cell has {ranked[0]:.4f} nats per character ({arm_name(values)}), the tenth best {ranked[9]:.4f}, the
median one {statistics.median(ranked):.4f}. Rank correlation of the loss at a rung with that at the end, over all cells:
{", ".join(f"{rank:.2f}" for rank in ranks)}.

![best loss against tokens](samplers.png)

## Best loss against tokens

Best final loss so far minus that of the best cell, in nats per character, at shares of the budget: median and
quartiles. Then trials begun, the share of them that was pruned, and the share that repeated a cell.

| sampler | pruner | {at} | trials | pruned | repeats |
|---|---|{"---:|" * (len(SHARES) + 3)}
{loss_rows(table, alone, budget_tokens)}
## Tokens until random search's loss is reached

As a ratio to random search without pruning, whose medians are exact (draws with replacement from the table): median and
its 95 % interval, and the share of searches that got there. Columns: the median best loss of random search after
{", ".join(map(str, counts[1:-1]))} and {counts[-1]} whole runs.

{speed_head}
{speed_rows(table, alone, targets)}
## With {WORKERS} workers, and with other random starts

The same ratios, in tokens of all workers together. They train side by side at one speed, so that a sampler and a pruner
know what the others have reported by then and no more. The number is that of TPE's first trials, which it draws at
random; it is 10 above.

{speed_head}
{speed_rows(table, beside, targets)}
## What this can show

- A table has a best cell, which every search may find and none can beat; near it differences are those of single runs
  on one seed, whose noise a search takes for gain.
- Samplers draw cells again, more so late in a search. Between cells there is nothing to be found here; a search over
  ranges would draw near neighbours in their place, and pay for them as well.
- Optuna's GP learns from complete trials alone. Under a pruner it may ask for the same stopped cell again and again,
  as the shares of repeats show; a search over ranges would ask for its neighbourhood.
"""


def main() -> None:
    """Record the table, or replay it, print the page and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="write the table from the storage, and no more")
    parser.add_argument("--study", default="samplers", help="its name in the storage")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--trials", type=int, default=100, help="the budget, in whole runs")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.record:
        recorded_runs.write(Settings.from_environment(), [arguments.study], arguments.table)
        loss_table.read(arguments.table)  # refused where a cell has not ended
        return
    table = loss_table.read(arguments.table)
    searches = search_all(
        table, repeats=arguments.repeats, budget_tokens=arguments.trials * table.cell_tokens
    )
    arguments.out.write_text(page(table, searches, repeats=arguments.repeats, trials=arguments.trials))
    static.write(figure(table, searches, arguments.trials), arguments.out.parent)
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
