"""What a run of faults needs no engine for: its plan, its record of who is at work, its checks and its page."""

import argparse
import random
from collections import Counter
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from tests.benchmarks.chaos import page
from tests.benchmarks.chaos.driver import Fault
from tests.benchmarks.chaos.faults import KINDS, plan
from tests.benchmarks.chaos.ledger import RATE, Run, check
from tests.benchmarks.chaos.observer import Observer, Sign

RATES = [0.001, 0.002, 0.003]


def trial(rate, state=TrialState.COMPLETE, loss=1.5, **attributes):
    return optuna.trial.create_trial(
        state=state,
        value=loss if state == TrialState.COMPLETE else None,
        params={RATE: rate},
        distributions={RATE: optuna.distributions.FloatDistribution(1e-4, 1)},
        intermediate_values={10: 2.0, 20: loss},
        user_attrs=attributes,
    )


def observer(*signs, ended=100.0):
    stack = SimpleNamespace(workers=list)
    watching = Observer(stack)
    watching.signs = [Sign(time, container, report, time - 1) for time, container, report in signs]
    watching.ended = ended
    return watching


ALL_AT_WORK = [(time, container, True) for time in (1.0, 50.0, 90.0) for container in (1, 2, 3)]


def run(**changes):
    found = {
        "trials": [
            trial(RATES[0]),
            trial(RATES[1], TrialState.FAIL, ended="its worker died"),
            trial(RATES[1], goes_on_with=1),
            trial(RATES[2]),
        ],
        "slots": ["closed"] * 3,
        "faults": [Fault(kind, 1, begun=20.0, ends=30.0, undone=30.0) for kind in KINDS[:2]],
        "missed": [],
        "asked": 2,
        "observer": observer(*ALL_AT_WORK),
        "last_fault": 30.0,
        "end": 100.0,
        "containers": ["exited (0)"] * 3 + ["running (0)"],
        "undisturbed": {RATES[1]: [2.0, 1.5, 1.5]},
    }
    return Run(**found | changes)


def violated(found):
    return [name for name, held, _ in check(found) if not held]


def test_a_whole_study_holds():
    assert violated(run()) == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"asked": 3}, "at least 3 faults"),
        (
            {"faults": [Fault(KINDS[0], 1, 1.0, 2.0, undone=2.0, failure="no such container")] * 2},
            "at least 2 faults, all undone",
        ),
        ({"slots": ["closed", "closed", "leased"]}, "exactly 3 trials finished"),
        ({"slots": ["closed"] * 4}, "exactly 4 trials finished"),
        ({"trials": [*map(trial, RATES), trial(0.004, TrialState.RUNNING)]}, "no trial is RUNNING"),
        (
            {"trials": [*map(trial, RATES[:2]), trial(RATES[1])]},
            "no configuration was trained to its end twice",
        ),
        ({"undisturbed": {RATES[1]: [2.0, 1.5, 1.5000000000000002]}}, "resumed trials have the losses"),
        ({"undisturbed": {}}, "resumed trials have the losses"),
        (
            {"observer": observer(*ALL_AT_WORK[:-1], (29.0, 3, True), (90.0, 3, False))},
            None,  # the one in the middle, at 50, is enough
        ),
        (
            {
                "observer": observer(
                    *(sign for sign in ALL_AT_WORK if sign[1] != 3 or sign[0] < 30), (90.0, 3, False)
                )
            },
            "all 3 containers trained again after every fault",  # a lease alone is no training
        ),
        (
            {"end": 150.0, "observer": observer(*ALL_AT_WORK[:-1], (95.0, 1, True), (95.0, 2, True))},
            "all 3 containers at work at the end",
        ),
        ({"observer": observer(*ALL_AT_WORK, ended=None)}, "all 3 containers at work at the end"),
    ],
)
def test_every_check_can_be_violated(changes, name):
    found = violated(run(**changes))
    assert [line[: len(name or "")] for line in found] == ([] if name is None else [name])


def test_the_time_of_recovery_is_that_of_the_last_container():
    late = observer((31.0, 1, True), (32.0, 2, False), (40.0, 2, True), (35.0, 3, True), (36.0, 3, True))
    assert late.all_train(30.0) == 40.0
    assert late.all_train(35.5) is None
    # what is seen half a second after a fault may have been written half a second before it
    assert observer((30.5, 1, True), (32.0, 2, True), (32.0, 3, True)).all_train(30.0) is None


def test_capacity_counts_what_lies_between_two_near_signs():
    steady = [(float(time), 1, True) for time in range(0, 101, 10)]
    assert observer(*steady).capacity(100.0) == pytest.approx(1 / 3)
    assert observer((0.0, 1, True), (50.0, 1, True)).capacity(100.0) == 0


def test_sixty_faults_are_of_every_kind_in_the_seeds_order():
    kinds = plan(60, random.Random(1))
    assert kinds == plan(60, random.Random(1)) != plan(60, random.Random(2))
    assert set(Counter(kinds)) == set(KINDS)
    assert set(Counter(kinds).values()) <= {60 // len(KINDS), 60 // len(KINDS) + 1}


def test_the_page_says_what_was_violated():
    arguments = argparse.Namespace(minutes=15.0, faults=2, trials=3, seed=1)
    good = run()
    assert "Every check held." in page.render(good, check(good), arguments)
    bad = run(slots=["closed", "closed", "leased"], end=150.0, observer=observer(*ALL_AT_WORK[:6]))
    text = " ".join(page.render(bad, check(bad), arguments).split())
    assert "**Violated: exactly 3 trials finished, every slot closed; all 3 containers at work" in text
    assert "| worker process killed | 1 | 10 s | 20 s | 20 s |" in text
    assert "| its worker died | 1 |" in text
