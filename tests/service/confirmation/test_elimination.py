import math

import numpy as np
import pytest

from service.confirmation.elimination import Dropped, dropped
from service.study.design import BASELINE

SEEDS = (11, 12, 13, 14, 15)
DIVERGED = Dropped(2, "a run of it diverged or did not fit into memory")


def arms(**losses):
    """Losses by arm, each list in the order of the seeds."""
    return {name: dict(zip(SEEDS, values, strict=False)) for name, values in losses.items()}


@pytest.mark.parametrize(
    ("differences", "others", "after"),
    [
        ([1, 2, 3], 1, None),  # t = 2 √3 / 1 = 3.46 < t(0.975; 2) = 4.303
        ([1, 1.5, 2], 1, 3),  # t = 1.5 √3 / 0.5 = 5.20
        ([1, 1.5, 2], 2, None),  # of two others each has half: t(0.9875; 2) = 6.205
        ([1.2, 1.5, 1.8], 2, 3),  # t = 1.5 √3 / 0.3 = 8.66
        ([1, 2, 3, 1.5], 1, None),  # t = 4.39, beyond t(0.975; 3) = 3.18; a third look's share of six: 4.857
        ([1, 2, 3, 2.5], 1, 4),  # t = 4.98
        ([-1, -1, -1], 1, None),
        ([1, 1], 1, None),  # two seeds say nothing of the spread
        ([1, 1, 1], 1, 3),
    ],
)
def test_an_arm_is_dropped_by_the_quantiles_of_printed_tables(differences, others, after):
    better = {f"same {i}": [0.0] * 5 for i in range(others)}
    expected = None if after is None else Dropped(after, "worse than same 0")
    assert dropped(arms(tested=differences, **better), SEEDS).get("tested") == expected


def test_the_first_seeds_are_those_that_are_run_first():
    found = arms(good=[1.0, 1.0, 1.0], bad=[2.0, 2.1, 2.2])
    assert list(dropped(found, (13, 12, 11))) == ["bad"]
    assert dropped(found, (10, *SEEDS)) == {}  # the first is still running


def test_the_baseline_drops_others_and_is_never_dropped():
    worse, better = [2.0, 2.1, 2.2], [1.0, 1.0, 1.0]
    assert dropped({BASELINE: arms(x=worse)["x"], **arms(a=better)}, SEEDS) == {}
    gone = dropped({BASELINE: arms(x=better)["x"], **arms(a=worse)}, SEEDS)
    assert gone == {"a": Dropped(3, "worse than baseline")}


def test_an_arm_whose_run_diverges_is_out_and_drops_nobody_from_then_on():
    assert dropped(arms(a=[1.0, math.inf], b=[2.0, 2.1, 2.2]), SEEDS) == {"a": DIVERGED}


def test_of_true_ties_few_are_dropped_however_often_it_is_looked_and_losers_nearly_always():
    generator = np.random.default_rng(0)
    times, ties, losers = 1000, 0, 0
    for _ in range(times):
        # what a seed does to all arms alike is larger than what it does to each
        common, own = generator.normal(0, 0.05, 5), generator.normal(0, 0.01, (4, 5))
        losses = common + own
        losses[3] += 0.3
        gone = dropped(arms(a=losses[0], b=losses[1], c=losses[2], loser=losses[3]), SEEDS)
        ties += "a" in gone
        losers += "loser" in gone
    # the promise is 0.05; each look at 5 %, not shared out, drops a fifth
    assert ties / times <= 0.05
    assert ties > 0
    assert losers / times > 0.95
