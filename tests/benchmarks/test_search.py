import json
import math
from itertools import product

import pytest

from service.search.halving import Halving
from service.search.problem import Advance, Begin
from service.search.thaw import Thaw
from service.study.file import StudyConfig
from service.study.samplers import ThawConfig
from service.study.strategy import with_sampler
from tests.benchmarks import loss_table
from tests.benchmarks.loss_table import LossTable
from tests.benchmarks.samplers import PRUNERS, SAMPLERS, TABLE
from tests.benchmarks.search import __main__ as search
from tests.benchmarks.search.arms import ARMS, DEFAULT, Pausing, drawn_at_random, drawn_by_tpe
from tests.benchmarks.search.priors import PRIORS
from tests.benchmarks.search.replay import Replay, problem_of
from tests.benchmarks.search.rows import row

RUNGS = (10, 25, 40)
LOSSES = {(i, j): 1 + 0.1 * ((i - 3) ** 2 + (j - 1) ** 2) for i, j in product(range(5), repeat=2)}
BOWL = LossTable(
    {"x": tuple(range(5)), "y": tuple(range(5))},
    RUNGS,
    {cell: (2 * loss, 1.5 * loss, loss) for cell, loss in LOSSES.items()},
)


class Script:
    """Decides what it was told to, and keeps what it was shown."""

    def __init__(self, *decisions):
        self.left = list(decisions)
        self.shown = []

    def decide(self, problem, begun, left):
        self.shown.append([(t.number, t.losses, t.state) for t in begun])
        return self.left.pop(0) if self.left else None


def cell(x, y):
    return Begin({"x": x, "y": y})


def test_a_trial_pauses_at_every_rung_and_ends_after_the_last():
    script = Script(cell(3, 1), cell(0, 0), Advance(0), Advance(0))
    found = Replay(BOWL, script, drawn_at_random, 0).run(budget_tokens=1000)
    assert (found.tokens, found.best) == ([50], [1.0])  # 40 of its own and 10 of the other's
    assert (found.trials, found.pruned, found.repeats) == (2, 1, 0)
    assert script.shown[1] == [(0, (2.0,), "paused")]
    assert script.shown[2][0] == (0, (2.0,), "paused")
    assert script.shown[-1][0] == (0, (2.0, 1.5, 1.0), "ended")


def test_workers_know_what_has_been_reported_and_what_runs():
    script = Script(cell(3, 1), cell(0, 0), Advance(0), Advance(1))
    found = Replay(BOWL, script, drawn_at_random, 0, workers=2).run(budget_tokens=1000)
    assert script.shown[1] == [(0, (), "running")]
    assert script.shown[2] == [(0, (2.0,), "paused"), (1, (), "running")]
    assert [t[2] for t in script.shown[3]] == ["running", "paused"]
    assert found.tokens == []  # nobody advanced one to its end


def test_a_diverged_trial_has_failed_and_cost_the_rung_it_did_not_reach():
    table = LossTable({"x": (0, 1)}, RUNGS, {(0,): (2.0,), (1,): (2.0, 1.5, 1.0)})
    script = Script(Begin({"x": 0}), Advance(0), Begin({"x": 1}), Advance(1), Advance(1))
    found = Replay(table, script, drawn_at_random, 0).run(budget_tokens=1000)
    assert script.shown[2] == [(0, (2.0,), "failed")]
    assert found.tokens == [25 + 40]


def test_a_search_ends_at_its_target_or_with_its_budget():
    def replay():
        return Replay(BOWL, Halving(), drawn_at_random, 1)

    whole = replay().run(budget_tokens=4000)
    assert whole.tokens[-1] <= 4000
    target = whole.best[0]
    short = replay().run(budget_tokens=4000, target=target)
    assert (short.best, short.tokens) == ([target], whole.tokens[:1])


def test_names_are_offered_without_an_order():
    table = LossTable(
        {"x": (1, 2), "name": ("a", "b")}, (1,), dict.fromkeys(product((0, 1), repeat=2), (1.0,))
    )
    parameters = problem_of(table, 0).space.parameters
    assert [type(p).__name__ for p in parameters.values()] == ["IntParameter", "CategoricalParameter"]
    found = Replay(table, Thaw(), drawn_at_random, 0).run(budget_tokens=100)
    assert (found.trials, found.repeats) == (4, 0)


@pytest.mark.parametrize("draw", [drawn_at_random, drawn_by_tpe])
@pytest.mark.parametrize("workers", [1, 3])
def test_promotion_repeats_and_gets_to_the_bottom(draw, workers):
    arm = Pausing(Halving(3), draw)
    how = {"seed": 1, "budget_tokens": 40 * 40, "workers": workers, "target": 1.1}
    found = arm.search(BOWL, **how)
    assert found == arm.search(BOWL, **how)
    assert found.best[-1] <= 1.1
    assert found.pruned > 0


def test_thaw_needs_less_than_random_search():
    target, costs = 1.0, []
    for seed in range(3):
        found = ARMS["thaw", "pauses"].search(BOWL, seed=seed, budget_tokens=4000, workers=1, target=target)
        costs.append(found.reached(target))
    assert sorted(costs)[1] < 0.5 * BOWL.random_trials(target) * BOWL.cell_tokens


@pytest.mark.slow
@pytest.mark.parametrize("kind", PRIORS)
def test_a_prior_that_misleads_costs_no_more_than_a_fifth(kind):
    table, seeds = loss_table.read(TABLE), 6
    how = {"budget_tokens": 100 * table.cell_tokens, "workers": 1, "target": table.random_best(100)}

    def cost(arm):
        return sum(ARMS[arm].search(table, seed=seed, **how).reached(how["target"]) for seed in range(seeds))

    assert cost((f"thaw, prior {kind}", "pauses")) < 1.2 * cost(("thaw", "pauses"))


def test_every_sampler_is_compared_with_every_pruner():
    assert set(product(SAMPLERS, PRUNERS)) < set(ARMS)


def test_the_default_is_what_a_study_gets_that_names_nothing():
    bare = StudyConfig(question="?", space={"optimizer.lr": {"type": "float", "low": 1e-4, "high": 1e-2}})
    section, arm = with_sampler(bare).sampler, ARMS[DEFAULT]
    assert (section, arm) == (ThawConfig(name="thaw"), Pausing(Thaw(startup=section.startup_trials)))


def test_a_row_has_the_median_its_interval_and_who_arrived():
    ratios = [0.1] * 30 + [0.2] * 8 + [math.inf] * 2
    found = row("t", "s", "p", 1, ratios)
    assert (found.ratio, found.low, found.high, found.arrived) == (0.1, 0.1, 0.1, 0.95)
    assert found.shown() == "| s | p | 1 | 0.100 (0.100 to 0.100) | 95% | 40 |\n"
    assert "default" not in found.as_dict()
    never = row("t", "s", "p", 8, [0.5, math.inf, math.inf], default=True)
    assert (never.ratio, never.low, never.high) == (None, 0.5, None)
    assert "| **s** | p | 8 | never (0.500 to never) | 33% | 3 |" in never.shown()
    assert json.loads(json.dumps(never.as_dict()))["default"] is True


def test_the_interval_is_about_that_of_the_ranks():
    ratios = [i / 100 for i in range(1, 41)]
    found = row("t", "s", "p", 1, ratios)
    assert found.ratio == 0.21
    assert found.low == pytest.approx(0.14, abs=0.011)  # ranks 14 and 27 of the sign test
    assert found.high == pytest.approx(0.27, abs=0.011)


def test_rows_that_are_not_measured_again_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.benchmarks.loss_table.read", lambda path: BOWL)
    for only in ("random:none", "random:halving with promotion"):
        monkeypatch.setattr(
            "sys.argv", ["", "--seeds", "2", "--processes", "1", "--out", str(tmp_path), "--only", only]
        )
        search.main()
    rows = json.loads((tmp_path / "search.json").read_text())
    assert [(r["searcher"], r["pruner"], r["workers"]) for r in rows] == [
        ("random", "none", 1),
        ("random", "none", 8),
        ("random", "halving with promotion", 1),
        ("random", "halving with promotion", 8),
    ]
    assert all(r["seeds"] == 2 and 0 <= r["arrived"] <= 1 for r in rows)
    page = (tmp_path / "search.md").read_text()
    assert page.count("\n| random |") == 4
