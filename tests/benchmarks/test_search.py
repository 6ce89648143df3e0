import json
import math
from itertools import product

import numpy as np
import pytest

from service.search.coordinates import Coordinates
from service.search.earlier import Earlier
from service.search.halving import Halving
from service.search.problem import Advance, Begin, Problem
from service.search.thaw import Thaw
from service.storage.earlier_trials import RECORDED, recorded_trials
from service.study import definition
from service.study.file import StudyConfig
from service.study.parameters import FloatParameter
from service.study.samplers import ThawConfig
from service.study.search_space import SearchSpace, key_of
from service.study.strategy import with_sampler
from tests.benchmarks import loss_table, recorded_runs
from tests.benchmarks.loss_table import Flat, LossTable
from tests.benchmarks.samplers import PRUNERS, SAMPLERS, TABLE
from tests.benchmarks.search import __main__ as search
from tests.benchmarks.search import pool, priors, surrogate
from tests.benchmarks.search.arms import (
    ARMS,
    DEFAULT,
    THAW,
    Pausing,
    drawn_at_random,
    drawn_by_tpe,
)
from tests.benchmarks.search.priors import PRIORS
from tests.benchmarks.search.replay import Replay
from tests.benchmarks.search.rows import row

pytestmark = pytest.mark.usefixtures("one_thread")
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


def test_without_pauses_every_trial_is_trained_to_its_end():
    arm, budget = ARMS["thaw, no pauses", "none"], 10 * BOWL.cell_tokens
    found = arm.search(BOWL, seed=0, budget_tokens=budget, workers=2, target=-math.inf)
    assert found.trials > 9
    assert found.pruned == 0


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
    section = with_sampler(bare).sampler
    assert section == ThawConfig(name="thaw")
    searcher = Thaw(startup=section.startup_trials)
    assert ARMS[THAW] == Pausing(searcher)
    assert ARMS[DEFAULT] == Pausing(searcher, prior="real")


def test_what_the_replay_knows_beforehand_is_what_a_study_of_the_same_space_does_without_the_tables_own_runs():
    hard, easy = RECORDED
    assert len(recorded_trials(hard, definition.load("samplers"))) == 130
    assert len(recorded_trials(easy, definition.load("samplers-hard"))) == 288
    for table, elsewhere, trials in (
        (loss_table.read(TABLE), hard, 130),
        (surrogate.Surrogate.fitted(search.hard_runs(), "forest"), easy, 288),
    ):
        problem = Problem(table.search_space, table.rungs, 0)
        (found,) = priors.earlier(table, problem, priors.REAL, 0)
        assert found.tried == Earlier.of(problem.space, priors.recorded_in(table, elsewhere)).tried
        assert len(priors.recorded_in(table, elsewhere)) == trials


def test_a_row_has_the_median_its_interval_and_who_arrived():
    ratios = [0.1] * 30 + [0.2] * 8 + [math.inf] * 2
    found = row("t", "s", "p", 1, ratios)
    assert (found.ratio, found.low, found.high, found.arrived) == (0.1, 0.1, 0.1, 0.95)
    assert found.shown() == "| s | p | 1 | 0.100 (0.100 to 0.100) | 0.165 | 95% | 40 |\n"
    assert found.mean == pytest.approx((30 * 0.1 + 8 * 0.2 + 2 * 1.0) / 40, abs=1e-4)
    assert "default" not in found.as_dict()
    never = row("t", "s", "p", 8, [0.5, math.inf, math.inf], default=True)
    assert (never.ratio, never.low, never.high) == (None, 0.5, None)
    assert "| **s** | p | 8 | never (0.500 to never) | 0.833 | 33% | 3 |" in never.shown()
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
        given = ["--tables", "samplers", "--seeds", "2", "--processes", "1", "--only", only]
        monkeypatch.setattr("sys.argv", ["", *given, "--out", str(tmp_path / "new")])
        search.main()
    rows = json.loads((tmp_path / "new" / "search.json").read_text())
    assert [(r["searcher"], r["pruner"], r["workers"]) for r in rows] == [
        ("random", "none", 1),
        ("random", "none", 8),
        ("random", "halving with promotion", 1),
        ("random", "halving with promotion", 8),
    ]
    assert all(r["seeds"] == 2 and 0 <= r["arrived"] <= 1 for r in rows)
    page = (tmp_path / "new" / "search.md").read_text()
    assert page.count("\n| random |") == 4


# Tables that are models, and pools


RATE = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
CONDITIONS = SearchSpace(
    StudyConfig(
        question="?",
        space={
            "optimizer.name": {"type": "categorical", "choices": ("adamw", "muon")},
            "optimizer.lr": RATE,
            "optimizer.auxiliary_lr": RATE | {"when": {"optimizer.name": ("muon",)}},
        },
    ).space
)


def loss_at(values):
    """A valley along the rate for each of two optimizers; the better one's depends on a second rate."""
    rate = math.log10(values["optimizer.lr"])
    if values["optimizer.name"] == "adamw":
        return 2.0 + 0.1 * (rate + 3) ** 2
    return 1.8 + 0.1 * (rate + 1.5) ** 2 + 0.1 * (math.log10(values["optimizer.auxiliary_lr"]) + 2) ** 2


def runs(number=60):
    places = np.random.default_rng(0).random((number, 3))
    values = Coordinates(CONDITIONS).values(places)
    # at the highest rates training fails, after the first rung
    lost = [v["optimizer.lr"] > 0.05 for v in values]
    curves = [(2.9,) if no else (2.9, 2.6, loss_at(v)) for v, no in zip(values, lost, strict=True)]
    return surrogate.Runs(CONDITIONS, RUNGS, tuple(values), tuple(curves))


@pytest.mark.parametrize(("kind", "near"), [("process", 0.02), ("forest", 0.08)])
def test_a_model_is_near_what_it_was_not_fitted_to(kind, near):
    found = surrogate.accuracy(runs(), kind)
    assert found.error < near
    assert found.rank > 0.8
    table, (fresh,) = surrogate.Surrogate.fitted(runs(), kind), Coordinates(CONDITIONS).values(MIDDLE)
    assert table.curve(fresh) == pytest.approx((2.9, 2.6, loss_at(fresh)), abs=4 * near)


MIDDLE = np.full((1, 3), 0.5)


def test_a_model_diverges_where_the_nearest_run_did():
    table = surrogate.Surrogate.fitted(runs(), "forest")
    for lr, length in ((0.1, 1), (1e-3, 3)):
        assert len(table.curve({"optimizer.name": "adamw", "optimizer.lr": lr})) == length
    ranked = table.ranked()
    assert 0.03 < sum(map(math.isinf, ranked)) / len(ranked) < 0.25
    assert ranked == sorted(ranked)


def test_runs_are_read_from_their_file(tmp_path):
    one = ({"optimizer.name": "adamw", "optimizer.lr": 1e-3}, (2.9, 2.6, 2.0))
    two = ({"optimizer.name": "muon", "optimizer.lr": 0.1, "optimizer.auxiliary_lr": 0.1}, (4.0,))
    path = tmp_path / "runs.json"
    path.write_text(json.dumps({"rungs": RUNGS, "runs": [one, two]}))
    found = surrogate.read(path, CONDITIONS)
    assert (found.values, found.losses) == ((one[0], two[0]), (one[1], two[1]))
    assert found.whole.tolist() == [True, False]
    assert found.curves.tolist() == [[2.9, 2.6, 2.0]]


def test_the_recorded_runs_lie_in_their_studys_space():
    found = search.hard_runs()
    assert len(found.values) >= 600
    for values in found.values:
        assert found.space.point(values, whole=True) == values
    assert not found.whole.all()


def test_a_sampler_without_conditions_searches_where_all_exists():
    table = surrogate.Surrogate.fitted(runs(), "forest")
    flat = Flat(table)
    assert not flat.search_space.conditional
    point = {"optimizer.name": "adamw", "optimizer.lr": 1e-3}
    assert flat.curve(point | {"optimizer.auxiliary_lr": 0.05}) == table.curve(point)
    names = {name for (name, _), arm in ARMS.items() if arm.fits(table)}
    assert names == {
        "random",
        "TPE",
        "GP, no conditions",
        "thaw",
        "thaw, no pauses",
        "thaw, first trial whole",
    }
    target = table.random_best(5)
    found = ARMS["GP, no conditions", "none"].search(
        table, seed=0, budget_tokens=60 * 40, workers=1, target=target
    )
    assert found.best[-1] <= target


LINE = (
    "config,parameters,d_model,n_layer,n_head,micro_batch_size,accumulation,gpus,lr,weight_decay,beta1,beta2"
)


def pool_of(tmp_path, most=0.5):
    """Twelve runs on a scaling law, each with a luck of its own, and some that are none of the pool's."""
    lines = [f"{LINE},cooldown_fraction,budget_tokens,tokens,budget_share,flops,val_loss,test_loss"]
    luck = {}
    for i in range(14):
        size, budget = 30e6 * (1 + i % 4), 1e9 * (1 + i // 3)
        size = 200e6 if i == 12 else size
        luck[i] = most * (((i * 7) % 12) / 6 - 1)
        shape = 256 + i, 4 + i, 8 + i, 8 + 8 * (i % 2), 2, 2
        head = i, size, *shape, 1e-3 + i * 1e-4, 0.01 + i / 100, 0.8 + i / 100, 0.9 + i / 200
        for share in (0.8 if i == 13 else 0.5, 1.0):
            tokens = share * budget
            loss = math.exp(1 - 0.05 * math.log(size / 60e6) - 0.1 * math.log(tokens / 1e9) + luck[i])
            lines.append(",".join(map(str, (*head, 0.1 + i / 100, budget, tokens, share, 1e15, loss, loss))))
    path = tmp_path / "lm_runs.csv"
    path.write_text("\n".join(lines) + "\n")
    return pool.read(path), luck


def test_a_pool_has_the_runs_of_its_sizes_and_their_losses_for_their_compute(tmp_path):
    table, luck = pool_of(tmp_path)
    assert len(table.values) == 12  # one is too large, one was not evaluated at the half
    _, ends = zip(*table.losses, strict=True)
    assert np.corrcoef(ends, [luck[i] for i in range(12)])[0, 1] > 0.7
    assert table.ranked() == sorted(ends)
    assert np.array(pool_of(tmp_path, 0.0)[0].losses) == pytest.approx(0, abs=1e-6)  # the law explains all


def test_a_pool_gives_the_nearest_run_that_was_not_begun(tmp_path):
    table, _ = pool_of(tmp_path)
    wanted = table.values[3] | {"lr": table.values[3]["lr"] * 1.01}
    first = table.available(wanted, [])
    assert first == table.values[3]
    assert table.curve(first) == table.losses[3]
    assert table.available(wanted, [key_of(first)]) != first


@pytest.mark.parametrize("arm", [("TPE", "none"), ("thaw", "pauses")])
def test_a_search_of_a_pool_has_each_run_once(tmp_path, arm):
    table, _ = pool_of(tmp_path)
    target = table.ranked()[0]
    found = ARMS[arm].search(table, seed=0, budget_tokens=12 * table.cell_tokens, workers=1, target=target)
    assert (found.best[-1], found.repeats) == (target, 0)


def test_runs_of_a_study_are_recorded_and_another_study_may_begin_with_them(tiny):
    space = "space:\n  optimizer.lr: {type: float, low: 1.0e-3, high: 1.0e-2}\ntrials: 2\nbaseline: false\n"
    tiny.write(space + "sampler: {name: random}\n", **{"training.tokens": 1500})
    tiny.create()
    tiny.worker().work()
    path = tiny.file.with_name("runs.json")
    recorded_runs.write(tiny.settings, ["tiny"], path)
    rate = FloatParameter(type="float", low=1e-3, high=1e-2)
    found, trials = surrogate.read(path, SearchSpace({"optimizer.lr": rate})), tiny.trials()
    assert found.rungs == (500, 1000, 1500)
    for values, curve, trial in zip(found.values, found.losses, trials, strict=True):
        assert values == pytest.approx(trial.params, rel=1e-4)
        assert curve == pytest.approx(list(trial.intermediate_values.values()), abs=6e-5)
    learned = recorded_trials(str(path.parent), definition.load(tiny.file))
    assert learned == [(v, curve[-1]) for v, curve in zip(found.values, found.losses, strict=True)]
