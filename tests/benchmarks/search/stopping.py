"""What a search that stops by itself has found, and how its forecast holds: replayed on recorded losses.

    .venv/bin/python -m tests.benchmarks.search.stopping [--tables samplers] [--gain 0.01] [--seeds 40]

Writes tests/benchmarks/results/stopping.md. A search is replayed to where it would stop, and on for the tokens of ten
whole trials more: those that the stop saves.
"""

import argparse
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from service.search.forecast import AHEAD
from service.search.problem import Begun, Decision, Problem, Stop
from service.search.thaw import Thaw
from tests.benchmarks.loss_table import Table
from tests.benchmarks.samplers import on_one_thread
from tests.benchmarks.search import __main__ as search
from tests.benchmarks.search.arms import drawn_at_random
from tests.benchmarks.search.replay import Replay

MOST = 60
"""Whole trials after which a search that has not stopped is given up."""
BEGINS = {"nothing": None, "recorded runs": "real"}
"""With what a search begins: of `priors`."""
HEAD = """\
# Searches that stop by themselves

`stop: {gain: …}`, replayed on the tables of [search.md](search.md), one worker a search. Losses are in nats per
character. *After* is what a search had trained when it stopped, in whole trials: median and quartiles. *Best* is its
best loss then, less the lowest of the table (of a model of runs: of the lowest that it knows of): median and worst.
Each went on for the tokens of ten whole trials more: what the forecast expected of these in the mean, what came, and
how often that lay between the bounds of the forecast, which are meant to hold eight of ten. Made by
`.venv/bin/python -m tests.benchmarks.search.stopping`.

| table | begins with | gain | stopped | after | best | ten more: expected | came | between |
|---|---|---:|---:|---:|---:|---:|---:|---:|
"""


@dataclass(frozen=True)
class Stopped:
    """One search that stopped by itself; losses in nats per character."""

    trials: float
    """Whole trials that its tokens would have paid for."""
    regret: float
    """Its best loss, less the best that there is."""
    gain: float
    """That ten more trials brought."""
    expected: float
    """That they were expected to bring."""
    is_between: bool
    """What they brought lies between the bounds of the forecast."""


@dataclass
class GoesOn:
    """Freeze-thaw search that notes where it would have stopped, and trains as much as `AHEAD` whole trials more."""

    thaw: Thaw
    further: int
    """Tokens of these."""
    stop: Stop | None = None
    left: float = -math.inf
    """Of the budget, where it would have stopped."""

    def decide(self, problem: Problem, begun: Sequence[Begun], left: float = math.inf) -> Decision | None:
        """As `Searcher.decide`."""
        decision = self.thaw.decide(problem, begun, left)
        if isinstance(decision, Stop) and self.stop is None:
            self.stop, self.left = decision, left
            self.thaw = replace(self.thaw, stop_gain=None)
            decision = self.thaw.decide(problem, begun, left)
        return None if left <= self.left - self.further else decision


def stopped(table: Table, gain: float, prior: str | None, seed: int) -> Stopped | None:
    """One search with one worker; None where it does not stop."""
    searcher = GoesOn(Thaw(stop_gain=gain), AHEAD * table.cell_tokens)
    budget = MOST * table.cell_tokens
    found = Replay(table, searcher, drawn_at_random, seed, prior=prior).run(budget_tokens=budget)
    if searcher.stop is None or searcher.stop.forecast is None:
        return None
    spent, forecast = budget - int(searcher.left), searcher.stop.forecast
    best = found.at(spent)
    came = best - found.at(spent + searcher.further)
    return Stopped(
        trials=spent / table.cell_tokens,
        regret=best - table.ranked()[0],
        gain=came,
        expected=forecast.ahead,
        is_between=forecast.low <= came <= forecast.high,
    )


def line(table: str, begins: str, gain: float, found: Sequence[Stopped | None]) -> str:
    """Of a Markdown table."""
    those = [one for one in found if one is not None]
    head = f"| {table} | {begins} | {gain} | {len(those)} of {len(found)} |"
    if len(those) < 2:
        return f"{head} | | | | |\n"
    low, middle, high = statistics.quantiles((one.trials for one in those), n=4)
    regret = sorted(one.regret for one in those)
    came, expected = (
        statistics.fmean(values) for values in zip(*((o.gain, o.expected) for o in those), strict=True)
    )
    between = sum(one.is_between for one in those) / len(those)
    return (
        f"{head} {middle:.1f} ({low:.1f} to {high:.1f}) | {statistics.median(regret):.4f} ({regret[-1]:.4f}) "
        f"| {expected:.4f} | {came:.4f} | {between:.0%} |\n"
    )


def main() -> None:
    """Replay, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", default=("samplers", "samplers-hard"))
    parser.add_argument("--gain", type=float, nargs="+", default=(0.0026,))
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=search.RESULTS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    page = HEAD
    for name in arguments.tables:
        table = search.tables(None)[name]()
        with ProcessPoolExecutor(arguments.processes, initializer=on_one_thread) as processes:
            for (begins, prior), gain in product(BEGINS.items(), arguments.gain):
                found = list(processes.map(partial(stopped, table, gain, prior), range(arguments.seeds)))
                page += line(name, begins, gain, found)
                print(page.splitlines()[-1], flush=True)
    (arguments.out / "stopping.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
