"""Trials that Optuna's own interface puts into a study: enqueued points, and results from elsewhere."""

import contextlib
import signal
import subprocess

import optuna
import pytest
import structlog
from click.testing import CliRunner
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from model.errors import ConfigError
from service.__main__ import cli
from service.confirmation import confirm
from service.confirmation.elimination import drops
from service.report.page import content as contents
from service.report.record.study_record import read
from service.storage.artifact_stores import open_store
from service.storage.database import open_storage
from service.storage.ownership import generation_of, slot_mark, slot_of
from service.storage.studies import load_study
from service.study import definition as study_config
from service.trials import gpt
from service.trials.worker import Worker
from tests.conftest import SPACE
from tests.fast_run import FastRun

COMPLETE, FAIL, WAITING, RUNNING = (
    TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING, TrialState.RUNNING,
)  # fmt: skip
LR = "optimizer.lr"
LEARNING = SPACE.replace("random", "tpe, startup_trials: 1") + "baseline: false\n"
BETAS = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
  optimizer.betas: {type: categorical, choices: [[0.9, 0.95], [0.9, 0.999]]}
  model.n_layer: {type: int, low: 1, high: 3}
sampler: {name: random}
"""


@pytest.fixture
def fast(tiny, monkeypatch):
    monkeypatch.setattr(gpt, "GptRun", FastRun)
    monkeypatch.setattr(FastRun, "step_seconds", 0.0)
    return tiny


@contextlib.contextmanager
def loaded(tiny):
    storage = open_storage(tiny.settings)
    try:
        yield load_study(storage, "tiny", tiny.settings)[0]
    finally:
        storage.engine.dispose()


def plainly(tiny) -> optuna.Study:
    """The study as a person opens it who uses Optuna."""
    return optuna.load_study(study_name="tiny", storage=tiny.settings.storage_url)


def invoke(tiny, *arguments):
    environment = {key: value for key, value in tiny.command()["env"].items() if key.startswith("HPTUNE_")}
    return CliRunner().invoke(cli, list(map(str, arguments)), env=environment)


def record_of(tiny, name="tiny"):
    """What a report rests on; its content is made of it as well."""
    storage = open_storage(tiny.settings)
    try:
        study, definition = load_study(storage, name, tiny.settings)
        found = read(study, definition, open_store(tiny.settings.artifacts))
        assert contents.build(found, None).tables
        return found
    finally:
        storage.engine.dispose()


def result_of(lr, value, low=1e-4, high=1e-2, *, log=True, **more):
    return create_trial(
        value=value, params={LR: lr}, distributions={LR: FloatDistribution(low, high, log=log)}, **more
    )


def test_enqueued_points_run_first_and_count(fast):
    fast.create(3)
    for lr in (0.002, 0.003):
        plainly(fast).enqueue_trial({LR: lr}, user_attrs={"memo": "mine"})
    fast.worker().work()
    trials = fast.trials()
    assert [trial.state for trial in trials] == [COMPLETE] * 3
    assert [trial.params[LR] for trial in trials] == [
        0.002,
        0.003,
        0.001,
    ]  # by number; the last is the baseline's
    assert all(trial.user_attrs["memo"] == "mine" for trial in trials[:2])
    assert trials[0].user_attrs["config"]["optimizer"]["lr"] == 0.002
    with loaded(fast) as study:
        assert [slot_of(trial, generation_of(study)) for trial in trials] == [1, 2, 0]
    assert fast.slots()["closed"] == 3


def test_the_baseline_is_that_of_its_slot_whatever_number_it_has(fast):
    fast.create(3)
    plainly(fast).enqueue_trial({LR: 0.002})
    fast.worker().work()
    number = next(trial.number for trial in fast.trials() if trial.params[LR] == 0.001)
    assert number > 0
    assert record_of(fast).baseline == f"trial {number}: baseline"


def test_a_search_without_a_baseline_has_none(fast):
    fast.write(SPACE + "baseline: false\n")
    fast.create(2)
    fast.worker().work()
    assert record_of(fast).baseline is None


REFUSED = {
    "above": ({LR: 0.5}, "optimizer.lr: given 0.5, allowed: from 0.0001 to 0.01"),
    "below": ({LR: 1e-9}, "optimizer.lr: given 1e-09, allowed: from 0.0001 to 0.01"),
    "nan": ({LR: float("nan")}, "optimizer.lr: given NaN, allowed: from 0.0001 to 0.01"),
    "text": ({LR: "0.001"}, 'optimizer.lr: given "0.001", allowed: from 0.0001 to 0.01'),
    "unknown": (
        {"optimizer.rate": 0.1},
        "optimizer.rate: is no parameter of the space, which has: optimizer.lr, optimizer.betas, model.n_layer",
    ),
    "choice": (
        {"optimizer.betas": [0.5, 0.5]},
        "optimizer.betas: given [0.5, 0.5], allowed: [0.9, 0.95], [0.9, 0.999]",
    ),
    "fraction": ({"model.n_layer": 1.5}, "model.n_layer: given 1.5, allowed: a whole number from 1 to 3"),
    "bool": ({"model.n_layer": True}, "model.n_layer: given true, allowed: a whole number from 1 to 3"),
}


def test_points_outside_the_space_are_refused_by_key_and_range_and_cost_no_slot(fast):
    fast.write(BETAS, **{"model.n_layer": None})
    fast.create(2)
    for point, _ in REFUSED.values():
        plainly(fast).enqueue_trial(point)
    fast.worker().work()
    refused = fast.trials()[: len(REFUSED)]
    assert [trial.state for trial in refused] == [FAIL] * len(REFUSED)
    assert [trial.user_attrs["ended"] for trial in refused] == [
        f"refused: {why}" for _, why in REFUSED.values()
    ]
    assert [trial.state for trial in fast.trials()[len(REFUSED) :]] == [COMPLETE] * 2
    assert fast.slots()["closed"] == 2
    assert record_of(fast).baseline == f"trial {len(REFUSED)}: baseline"


def test_what_is_refused_is_refused_without_a_free_slot_too(fast):
    fast.create(1)
    plainly(fast).enqueue_trial({LR: 0.5})
    plainly(fast).enqueue_trial({LR: 0.002})
    fast.worker().work()
    assert [trial.state for trial in fast.trials()] == [FAIL, WAITING, COMPLETE]
    fast.create(1)
    fast.worker().work()
    assert fast.trials()[1].state == COMPLETE


@pytest.mark.parametrize("stored", [[0.9, 0.999], "[0.9, 0.999]"])
def test_a_part_of_a_point_is_taken_and_the_rest_is_sampled(fast, stored):
    fast.write(BETAS + "baseline: false\n", **{"model.n_layer": None})
    fast.create(1)
    plainly(fast).enqueue_trial({"optimizer.betas": stored, "model.n_layer": 2})
    fast.worker().work()
    (trial,) = fast.trials()
    assert trial.state == COMPLETE
    assert trial.user_attrs["config"]["optimizer"]["betas"] == [0.9, 0.999]
    assert trial.user_attrs["config"]["model"]["n_layer"] == 2
    assert 1e-4 <= trial.params[LR] <= 1e-2


@pytest.mark.parametrize("low", [1e-4, 1e-6])
def test_a_waiting_trial_with_the_ranges_of_the_space_runs_and_with_others_is_refused(fast, low):
    fast.write(SPACE + "baseline: false\n")
    fast.create(1)
    range_ = FloatDistribution(low, 1e-2, log=True)
    plainly(fast).add_trial(create_trial(state=WAITING, params={LR: 0.002}, distributions={LR: range_}))
    fast.worker().work()
    trial = fast.trials()[0]
    assert trial.params[LR] == 0.002
    if low == 1e-4:
        assert trial.state == COMPLETE
    else:
        assert trial.state == FAIL
        assert trial.user_attrs["ended"].startswith("refused: optimizer.lr: is given with FloatDistribution(")
        assert [trial.state for trial in fast.trials()[1:]] == [COMPLETE]


def test_a_condition_is_part_of_the_space(tiny):
    tiny.write(
        "space:\n  optimizer.name: {type: categorical, choices: [adamw, sgd]}\n"
        "  optimizer.momentum: {type: float, low: 0.1, high: 0.9, when: {optimizer.name: [sgd]}}\n"
        "baseline: false\n"
    )
    space = study_config.load(str(tiny.file)).space
    assert space.point({"optimizer.name": "sgd", "optimizer.momentum": 0.5}) == {
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.5,
    }
    for params in ({"optimizer.name": "adamw", "optimizer.momentum": 0.5}, {"optimizer.momentum": 0.5}):
        with pytest.raises(
            ConfigError, match=r'^optimizer\.momentum: exists only beside optimizer\.name \["sgd"\]$'
        ):
            space.point(params)
    with pytest.raises(ConfigError, match=r"^optimizer\.momentum: is missing, allowed: from 0\.1 to 0\.9$"):
        space.point({"optimizer.name": "sgd"}, whole=True)
    assert space.point({"optimizer.name": "adamw"}, whole=True)


def test_a_design_runs_its_own_configurations_alone(fast):
    fast.write(
        "design:\n  list:\n    - {optimizer.lr: 2.0e-3}\n    - {optimizer.lr: 3.0e-3}\nbaseline: false\n"
    )
    fast.create()
    plainly(fast).enqueue_trial({LR: 0.002})
    fast.worker().work()
    refused, *rest = fast.trials()
    assert refused.state == FAIL
    assert refused.user_attrs["ended"] == (
        "refused: this study runs 2 configurations that its file lists, and no other; add it there"
    )
    assert [trial.params[LR] for trial in rest] == [0.002, 0.003]


def test_an_enqueued_trial_that_is_interrupted_goes_on_with_its_point(tiny):
    """Killed where its parameters are not yet stored, at its start, it has its point from what was enqueued."""
    tiny.write(SPACE + "baseline: false\n")
    tiny.create(1)
    plainly(tiny).enqueue_trial({LR: 0.002})
    with subprocess.Popen(
        **tiny.command("work", "tiny"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        next(line for line in process.stdout if "trial started" in line)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    tiny.worker().work()
    trials = tiny.trials()
    assert trials[-1].state == COMPLETE
    assert {trial.params[LR] for trial in trials} == {0.002}
    assert tiny.slots()["closed"] == 1


def take_without_noting(tiny):
    """What is left of a worker that is killed between taking a trial and noting it in its slot."""
    with loaded(tiny) as study:
        trial = study.get_trials(states=(WAITING,))[0]
        for key, value in slot_mark(generation_of(study), 1).items():
            study._storage.set_trial_user_attr(trial._trial_id, key, value)
        assert study._storage.set_trial_state_values(trial._trial_id, RUNNING)


def test_an_enqueued_trial_is_not_lost_with_the_worker_that_took_it(fast):
    fast.create(2)
    plainly(fast).enqueue_trial({LR: 0.002}, user_attrs={"memo": "mine"})
    take_without_noting(fast)
    fast.worker().work()
    assert fast.trials()[0].state == FAIL
    fast.create(1)
    fast.worker().work()
    again = [trial for trial in fast.trials() if trial.params.get(LR) == 0.002]
    assert [trial.state for trial in again] == [COMPLETE]
    assert again[0].user_attrs["memo"] == "mine"
    assert not [trial for trial in fast.trials() if trial.state in (RUNNING, WAITING)]


def test_a_trial_that_somebody_else_runs_is_left_to_him(fast):
    fast.create(1)
    trial = plainly(fast).ask({LR: FloatDistribution(1e-4, 1e-2, log=True)})
    fast.worker().work()
    assert fast.trials()[0].state == RUNNING
    assert "RUNNING" not in invoke(fast, "status", "tiny").output
    plainly(fast).tell(trial.number, 1.5)
    assert [trial.state for trial in fast.trials()] == [COMPLETE] * 2
    assert fast.slots()["closed"] == 1


ODD = {
    "nothing but a value": create_trial(value=0.25),
    "a point": result_of(0.003, 0.26),
    "a point outside": result_of(0.5, 0.27, 1e-5, 1.0),
    "a range of another kind": create_trial(
        value=0.28, params={LR: 1}, distributions={LR: IntDistribution(1, 3)}
    ),
    "a choice": create_trial(
        value=0.29, params={LR: "fast"}, distributions={LR: CategoricalDistribution(["fast", "slow"])}
    ),
    "other keys": create_trial(value=0.3, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}),
    "minus infinity": create_trial(value=float("-inf")),
    "attributes of other types": create_trial(
        value=0.31,
        user_attrs={
            "tokens": "many", "bits_per_byte": None, "config": 3, "checkpoint": "here", "provenance": [], "arm": 7,
            "ended": {}, "audit": 1, "states": 5, "goes_on_with": 0, "slot": 0, "parameters": [1],
            "flops_per_token": float("nan"),
        },
    ),
    "steps of its own": create_trial(value=0.32, intermediate_values={1: 0.5, 2: 0.4}),
    "pruned": create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.5}),
    "pruned without a report": create_trial(state=TrialState.PRUNED),
    "failed": create_trial(state=TrialState.FAIL),
}  # fmt: skip


DESIGN = "design:\n  list:\n    - {arm: A, optimizer.lr: 2.0e-3}\n"


@pytest.mark.parametrize(
    ("body", "first", "whole_report"),
    [(SPACE, True, False), (LEARNING, True, True), (LEARNING, False, False), (DESIGN, False, True)],
)
def test_results_from_elsewhere_are_shown_and_ranked_and_take_no_slot(fast, body, first, whole_report):
    """Whatever attributes, parameters and ranges they have or lack, no verb stumbles over them."""
    fast.write(body)
    fast.create(2)
    if not first:
        fast.worker().work()
    for trial in ODD.values():
        # Optuna itself refuses a range of another kind than one that is there
        with contextlib.suppress(ValueError):
            plainly(fast).add_trial(trial)
    if first:
        fast.worker().work()
    own = [trial for trial in fast.trials() if isinstance(trial.user_attrs.get("slot"), dict)]
    assert [trial.state for trial in own] == [COMPLETE] * 2
    assert fast.slots() == {"open": 0, "leased": 0, "held": 0, "closed": 2}
    status = invoke(fast, "status", "tiny")
    assert status.exit_code == 0, status.output
    assert "0.2500" in status.output
    assert "-inf" in status.output
    found = record_of(fast)
    assert 0.25 in [run.metrics["val_loss"] for run in found.runs if run.complete]
    assert "continued" not in found.states
    baselines = {SPACE: f"trial {own[0].number}: baseline", LEARNING: None, DESIGN: "baseline"}
    assert found.baseline == baselines[body]
    if whole_report:
        report = invoke(fast, "report", "tiny", "--out", fast.folder / "report")
        assert report.exit_code == 0, report.output


@pytest.mark.parametrize("odd", ["a choice", "a range of another kind", "other keys"])
def test_ranges_of_another_kind_do_not_stop_the_search(fast, odd):
    fast.write(LEARNING)
    fast.create(4)
    plainly(fast).add_trial(ODD[odd])
    fast.worker().work()
    assert [trial.state for trial in fast.trials()[1:]] == [COMPLETE] * 4


def test_the_sampler_learns_from_results_from_elsewhere(fast):
    """Of forty, those with rates around 0.005 are good; their range is another one than the space's."""
    fast.write(LEARNING)
    fast.create(6)
    rates = [10 ** (-4 + i / 20) for i in range(40)]
    plainly(fast).add_trials(
        result_of(rate, -10 - (1 if 0.004 < rate < 0.007 else 0), 1e-5, 1e-1) for rate in rates
    )
    fast.worker().work()
    suggested = [trial.params[LR] for trial in fast.trials()[40:]]
    assert sum(0.003 < rate < 0.008 for rate in suggested) >= 4  # 1.3 of 6 by chance


def test_better_results_from_elsewhere_take_nobodys_weights(fast):
    fast.write(SPACE + "keep_checkpoints: 1\n")
    fast.create(2)
    for value in (-3, -2, -1):
        plainly(fast).add_trial(result_of(0.002, value))
    fast.worker().work()
    own = [trial for trial in fast.trials() if "slot" in trial.user_attrs]
    best = min(own, key=lambda trial: trial.value)
    weights = best.user_attrs["checkpoint"]["model.safetensors"]
    assert (fast.folder / "artifacts" / weights).exists()


def test_trials_of_another_study_are_no_trials_of_this_one(fast):
    """They bring along that study's slots, numbers of other trials, and files that are not this one's to remove."""
    fast.create(2)
    fast.worker().work()
    others = fast.trials()
    fast.create(2, name="other")
    other = optuna.load_study(study_name="other", storage=fast.settings.storage_url)
    other.add_trials(others)
    other.add_trial(create_trial(value=0.5, user_attrs={"goes_on_with": 0}))
    found = record_of(fast, "other")
    assert found.states == {"complete": (0, 1, 2)}
    assert found.baseline is None  # its slot has no trial yet
    assert all(run.added for run in found.runs)


def test_a_result_from_elsewhere_is_confirmed_where_its_point_is_in_the_space(fast):
    fast.create(1)
    fast.worker().work()
    plainly(fast).add_trial(result_of(0.003, -2))
    plainly(fast).add_trial(result_of(0.5, -3, 1e-5, 1.0))
    said = []
    _, made = confirm.prepare(fast.settings, "tiny", top=5, seeds=2, say=said.append)
    assert set(made.arms) == {"baseline", "trial 1"}
    assert made.cells[1][LR] == 0.003
    assert said[0] == (
        "trial 2 of tiny cannot be run again, and is left out: optimizer.lr: given 0.5, allowed: from 0.0001 to 0.01"
    )


def test_a_verdict_rests_on_the_runs_of_the_confirmation_alone(fast):
    fast.create(3)
    fast.worker().work()
    name, made = confirm.prepare(fast.settings, "tiny", top=1, seeds=2, say=print)
    confirmation = optuna.load_study(study_name=name, storage=fast.settings.storage_url)
    confirmation.add_trial(create_trial(value=-5))
    confirmation.add_trial(create_trial(value=-5, user_attrs={"arm": made.arms[1]}))
    log = structlog.get_logger()
    Worker(fast.settings, name, owner="w", threads=1, parent=None, drops=drops, log=log).work()
    judged, _ = confirm.conclude(fast.settings, name)
    assert all(loss > 0 for standing in judged.standings for loss in standing.losses.values())
    assert [len(standing.losses) for standing in judged.standings] == [2, 2]
