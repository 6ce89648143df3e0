"""What a search that stops by itself has found, and how its forecast holds: replayed on recorded losses.

    .venv/bin/python -m tests.benchmarks.search.stopping [--table samplers] [--gain 0.0026] [--seeds 40]

Prints a table. A search is replayed to where it would stop, and on for the tokens of ten whole trials more: those that
the stop saves.
"""

import argparse
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

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
HEAD = """\
| table | gain | stopped | whole trials' tokens | best, less the best there is | ten more: expected | came | between |
|---|---|---|---|---|---|---|---|
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


def stopped(table: Table, gain: float, seed: int) -> Stopped | None:
    """One search with one worker; None where it does not stop."""
    searcher = GoesOn(Thaw(stop_gain=gain), AHEAD * table.cell_tokens)
    budget = MOST * table.cell_tokens
    found = Replay(table, searcher, drawn_at_random, seed).run(budget_tokens=budget)
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


def line(name: str, gain: float, found: Sequence[Stopped | None]) -> str:
    """Of a Markdown table."""
    those = [one for one in found if one is not None]
    if len(those) < 2:
        return f"| {name} | {gain} | {len(those)} of {len(found)} | | | | | |\n"
    low, middle, high = statistics.quantiles((one.trials for one in those), n=4)
    regret = sorted(one.regret for one in those)
    came, expected = (
        statistics.fmean(values) for values in zip(*((o.gain, o.expected) for o in those), strict=True)
    )
    between = sum(one.is_between for one in those) / len(those)
    return (
        f"| {name} | {gain} | {len(those)} of {len(found)} | {middle:.1f} ({low:.1f} to {high:.1f}) "
        f"| {statistics.median(regret):.4f} ({regret[-1]:.4f}) | {expected:.4f} | {came:.4f} | {between:.0%} |\n"
    )


def main() -> None:
    """Replay, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", default="samplers")
    parser.add_argument("--gain", type=float, nargs="+", default=(0.01, 0.0026, 0.001))
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    table = search.tables(None)[arguments.table]()
    print(HEAD, end="")
    with ProcessPoolExecutor(arguments.processes, initializer=on_one_thread) as processes:
        for gain in arguments.gain:
            found = list(processes.map(partial(stopped, table, gain), range(arguments.seeds)))
            print(line(arguments.table, gain, found), end="", flush=True)


if __name__ == "__main__":
    main()
