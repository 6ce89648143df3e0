import json
import math
from itertools import product

import pytest

from service.study.pruners import MedianConfig, NoPrunerConfig, ThresholdConfig
from service.study.samplers import RandomConfig
from tests.benchmarks import loss_table, recorded_runs, samplers
from tests.benchmarks.loss_table import LossTable, Search

pytestmark = pytest.mark.usefixtures("one_thread")
RANDOM, NO_PRUNER = RandomConfig(name="random"), NoPrunerConfig()
RUNGS = (10, 25, 40)
COLUMN = LossTable({"x": tuple(range(10))}, RUNGS, {(i,): (20.0, 15.0, i + 1.0) for i in range(10)})
"""Ten cells of one axis, whose final losses are 1 to 10."""


def bowl():
    """Nine by nine cells around one best, which is in neither the middle nor a corner."""
    losses = {(i, j): 1 + 0.1 * ((i - 6) ** 2 + (j - 2) ** 2) for i, j in product(range(9), repeat=2)}
    axes = {"x": tuple(range(9)), "y": tuple(range(9))}
    return LossTable(axes, RUNGS, {cell: (2 * loss, 1.5 * loss, loss) for cell, loss in losses.items()})


# The table


def write(folder, *cells):
    path = folder / "runs.json"
    study = {"design": {"grid": {"x": [0.5, 1.0], "name": ["a", "b"]}}}
    runs = [({"x": x, "name": name}, curve) for x, name, curve in cells]
    path.write_text(json.dumps({"definition": {"study": study}, "rungs": [5, 9], "runs": runs}))
    return path


FOUR = ((0.5, "a", [3, 2]), (0.5, "b", [3, 1]), (1.0, "a", [4]), (1.0, "b", [5, 4]))


def test_a_table_is_read_by_position_on_its_axes(tmp_path):
    table = loss_table.read(write(tmp_path, *FOUR))
    assert table.losses == {(0, 0): (3, 2), (0, 1): (3, 1), (1, 0): (4,), (1, 1): (5, 4)}
    assert table.cell_tokens == 9
    assert table.ranked() == [1, 2, 4, math.inf]  # (1, 0) diverged


@pytest.mark.parametrize(
    ("cells", "fault"), [(FOUR[:3], "all 4 combinations, given 3"), ((*FOUR[:3], FOUR[0]), "twice")]
)
def test_a_table_that_is_not_whole_is_refused(tmp_path, cells, fault):
    with pytest.raises(ValueError, match=fault):
        loss_table.read(write(tmp_path, *cells))


def test_numbers_are_offered_in_order_and_names_without(tmp_path):
    table = loss_table.read(write(tmp_path, *FOUR))
    shown = {key: type(p).__name__ for key, p in table.search_space.parameters.items()}
    assert shown == {"x": "IntParameter", "name": "CategoricalParameter"}
    assert table.curve({"x": 1, "name": "0"}) == (4,)


# Random search, in closed form


@pytest.mark.parametrize(
    ("trials", "best"),
    [(1, 5), (2, 3), (3, 3), (4, 2), (7, 1)],  # 0.8² and 0.8³ are above a half, 0.8⁴, 0.7² and 0.9⁷ below
)
def test_the_median_best_of_random_draws(trials, best):
    assert COLUMN.random_best(trials) == best


@pytest.mark.parametrize(("target", "trials"), [(1, 7), (2, 4), (3, 2), (5, 1), (10, 1)])
def test_the_median_number_of_random_draws_to_a_loss(target, trials):
    assert COLUMN.random_trials(target) == trials


def test_replayed_random_search_finds_a_loss_as_often_as_independent_draws_do():
    searches = [
        loss_table.search(COLUMN, RANDOM, NO_PRUNER, seed=seed, budget_tokens=4 * 40) for seed in range(300)
    ]
    found = sum(search.at(4 * 40) <= 2 for search in searches) / 300
    expected = 1 - 0.8**4
    assert abs(found - expected) < 3 * math.sqrt(expected * (1 - expected) / 300)


# A search


def test_what_ends_after_the_budget_does_not_count():
    whole, less = (
        loss_table.search(COLUMN, RANDOM, NO_PRUNER, seed=1, budget_tokens=tokens) for tokens in (120, 119)
    )
    assert whole.trials == less.trials == 3
    assert whole.at(120) < whole.at(119) == less.at(120)
    assert (whole.tokens, whole.at(39)) == ([40, 120], math.inf)  # the third draw is the better one


def test_a_pruned_trial_costs_the_tokens_up_to_the_rung_that_ended_it():
    # of four cells the last is above the limit, at its second rung
    losses = {(0,): (3.0, 2.0, 1.0), (1,): (3.0, 2.0, 0.5), (2,): (3.0, 2.0, 0.9), (3,): (3.0, 9.0, 0.1)}
    table = LossTable({"x": (0, 1, 2, 3)}, RUNGS, losses)
    limit = ThresholdConfig(name="threshold", upper=5)
    budget = 1000
    search = loss_table.search(table, RANDOM, limit, seed=0, budget_tokens=budget)
    assert search.pruned > 2
    spent = 40 * (search.trials - search.pruned) + 25 * search.pruned
    assert budget <= spent < budget + 40  # at any other cost it would have had more trials, or fewer
    assert search.at(budget) == 0.5  # the stopped cell's final loss was never seen


def test_a_trial_that_diverges_costs_the_rung_that_it_did_not_reach():
    table = LossTable({"x": (0, 1)}, RUNGS, {(0,): (3.0,), (1,): (3.0,)})
    search = loss_table.search(table, RANDOM, NO_PRUNER, seed=0, budget_tokens=100)
    assert (search.trials, search.pruned, search.best) == (4, 0, [])  # of 25 tokens each


def test_a_cell_that_was_drawn_before_is_counted():
    table = LossTable({"x": (0, 1)}, RUNGS, {(0,): (3.0, 2.0, 1.0), (1,): (3.0, 2.0, 1.0)})
    search = loss_table.search(table, RANDOM, NO_PRUNER, seed=0, budget_tokens=20 * 40)
    assert (search.trials, search.repeats) == (20, 18)
    assert search.tokens == [40]  # an equal loss is no improvement


def test_workers_side_by_side_share_the_budget_and_what_they_have_seen():
    # two cells, of which the pruner stops the second wherever a better one has been seen at that rung
    table = LossTable({"x": (0, 1)}, RUNGS, {(0,): (3.0, 2.0, 1.0), (1,): (6.0, 5.0, 4.0)})
    median = MedianConfig(name="median", warmup_fraction=0, startup_trials=0)
    search = loss_table.search(table, RANDOM, median, seed=3, budget_tokens=480, workers=4)
    # four begin at 0 and nobody has finished before they do, at 40 tokens each
    assert search.tokens[0] == 160
    assert search.pruned > 0
    kept = search.trials - search.pruned
    assert 480 - 4 * 40 < 40 * kept + 10 * search.pruned < 480 + 4 * 40
    alone = loss_table.search(table, RANDOM, median, seed=3, budget_tokens=480)
    assert alone.tokens[0] == 40 < search.tokens[0]
    assert alone.pruned > search.pruned  # it knew the better cell's end when it began the second trial


@pytest.mark.parametrize(
    "search", [*samplers.ALONE, *((sampler, "median, from 1/2", 3) for sampler in samplers.SAMPLERS)]
)
def test_every_search_repeats_and_its_best_loss_falls(search):
    job = (bowl(), search, 0, 15 * 40)
    found = samplers.run_search(job)
    assert found == samplers.run_search(job)
    assert found.tokens == sorted(found.tokens)
    if search[2] == 1:  # workers side by side may end together
        assert len(set(found.tokens)) == len(found.tokens)
    assert found.tokens[-1] <= 15 * 40
    assert found.best == sorted(set(found.best), reverse=True)
    assert (found.pruned > 0) <= (search[1] != "none")


@pytest.mark.parametrize("sampler", ["TPE", pytest.param("GP", marks=pytest.mark.slow), "CMA-ES"])
def test_a_sampler_that_learns_finds_the_bottom_sooner_than_random_search(sampler):
    table = bowl()
    searches = [samplers.run_search((table, (sampler, "none", 1), seed, 50 * 40)) for seed in range(5)]
    median = sorted(search.reached(1.0) for search in searches)[2]
    assert median < table.random_trials(1.0) * 40  # 56 draws for the one best of 81


# What is said of them


def test_an_interval_of_the_median_is_that_of_the_ranks():
    # 20 values: ranks 6 and 15, as tables of the sign test have it
    assert samplers.median_interval(range(1, 21)) == (6, 15)
    assert samplers.quartiles([1.0, 2.0, 3.0, math.inf]) == (2, 3, 3)


def test_the_rows_say_losses_and_tokens_relative_to_the_best_cell_and_to_random_search():
    found = [Search([40, 80], [4.0, 1.0], trials=4, pruned=1, repeats=2)] * 3 + [
        Search([40], [3.0], trials=4)
    ] * 2
    searches = {("TPE", "none", 1): found}
    losses = samplers.loss_rows(COLUMN, searches, 400)
    once = "3.0000 (2.0000 to 3.0000)"  # at a tenth
    later = "0.0000 (0.0000 to 2.0000)"
    assert losses == f"| TPE | none | {once} | {later} | {later} | {later} | 4 | 15% | 30% |\n"
    # random search needs 7 draws for a loss of 1 and 2 for one of 3
    ratios = samplers.speed_rows(COLUMN, searches, [1.0, 3.0])
    assert ratios == "| TPE | none | 1 | 0.29 (0.29 to never) | 60% | 1.00 (0.50 to 1.00) | 100% |\n"


def test_the_page_and_its_figure_have_every_search():
    table = bowl()
    searches = {
        search: [
            loss_table.search(table, RANDOM, NO_PRUNER, seed=seed, budget_tokens=400) for seed in range(4)
        ]
        for search in [*samplers.ALONE, *samplers.BESIDE]
    }
    page = samplers.page(table, searches, repeats=4, trials=10)
    assert page.count("| successive halving |") == 2 * len(samplers.SAMPLERS)
    assert page.count("| 8 |") == 2 * len([*samplers.SAMPLERS, *samplers.STARTS])
    assert "81 real training runs of 40 tokens" in page
    assert "best cell has 1.0000 nats per character (x 6, y 2), the tenth best 1.4000" in page
    plot = samplers.figure(table, searches, 10)
    assert [series.name for series in plot.legend] == [*samplers.SAMPLERS, "random, exact"]
    exact = plot.panels[0].series[-1]
    assert (exact.x[-1], exact.y[-1]) == (400, table.random_best(10))


# Recording


def test_a_grid_study_becomes_a_table(tiny):
    grid = "design:\n  grid:\n    optimizer.lr: [1.0e-3, 1.0e-2]\n    model.positions: [learned, rope]\n"
    tiny.write(grid + "baseline: false\n", **{"training.tokens": 1500})
    tiny.create()
    path = tiny.file.with_name("runs.json")
    recorded_runs.write(tiny.settings, ["tiny"], path)
    with pytest.raises(ValueError, match="all 4 combinations, given 0"):
        loss_table.read(path)
    tiny.worker().work()
    recorded_runs.write(tiny.settings, ["tiny"], path)
    table = loss_table.read(path)
    assert table.axes == {"optimizer.lr": (1e-3, 1e-2), "model.positions": ("learned", "rope")}
    assert table.rungs == (500, 1000, 1500)
    trials = tiny.trials()
    assert list(table.losses) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for curve, trial in zip(table.losses.values(), trials, strict=True):
        assert curve == pytest.approx(
            list(trial.intermediate_values.values()), abs=5e-6
        )  # rounded to 5 digits
