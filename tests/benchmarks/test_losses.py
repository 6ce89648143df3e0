import statistics

import pytest

from tests.benchmarks.search import losses
from tests.benchmarks.search.arms import ARMS
from tests.benchmarks.test_search import BOWL

RANDOM = "random", "none"


def test_losses_on_the_way_are_those_of_searches_that_nothing_ends(one_thread):
    (found,) = losses.measured("bowl", BOWL, [RANDOM], seeds=5, processes=1)
    budget = 25 * BOWL.cell_tokens
    alone = [
        ARMS[RANDOM].search(BOWL, seed=seed, budget_tokens=budget, workers=1, target=-1.0)
        for seed in range(5)
    ]
    for runs, quartiles in zip(losses.WHOLE_RUNS, found["quartiles"], strict=True):
        at = [search.at(runs * BOWL.cell_tokens) for search in alone]
        assert quartiles == pytest.approx(
            [statistics.quantiles(at, n=4, method="inclusive")[i] for i in range(3)]
        )


def test_a_kind_is_written_in_place_of_what_it_was(tmp_path):
    def kind(searcher, *quartiles):
        return {"table": "bowl", "searcher": searcher, "pruner": "none", "seeds": 4, "quartiles": quartiles}

    nothing = [None, None, None]
    for one in (
        kind("a", nothing, nothing, [1.0, 2.0, None]),
        kind("b", [1.0, 1.25, 1.5], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]),
        kind("a", nothing, [3.0, 3.0, None], [0.6, 0.7, 0.8]),
    ):
        losses.write(tmp_path, one)
    assert losses.shown(losses.read(tmp_path), ("a", "none")) == (
        "| bowl | pruner | 5 runs | 10 runs | 25 runs | seeds |\n"
        "|---|---|---:|---:|---:|---:|\n"
        "| b | none | 1.250 (1.000 to 1.500) | 1.000 (1.000 to 1.000) | 0.500 (0.500 to 0.500) | 4 |\n"
        "| **a** | none | – (– to –) | 3.000 (3.000 to –) | 0.700 (0.600 to 0.800) | 4 |\n\n"
    )
