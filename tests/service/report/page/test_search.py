"""The first page of a search."""

from dataclasses import replace

import pytest

from service.report.page import search
from service.report.record.noise import Noise
from service.report.record.study_record import Arm
from service.study.parameters import CategoricalParameter, FloatParameter
from service.study.search_space import SearchSpace
from tests.service.report.conftest import evaluation, run_of

SPACE = SearchSpace(
    {
        "optimizer.lr": FloatParameter(type="float", low=1e-4, high=1e-2, log=True),
        "optimizer.name": CategoricalParameter(type="categorical", choices=("adamw", "sgd")),
        "optimizer.sharpness.method": CategoricalParameter(type="categorical", choices=("none", "sam")),
    }
)


@pytest.fixture
def searched(record):
    base = run_of(
        "trial 0: baseline", 0, {"val_loss": 2.0, "seconds": 3.0}, trial=0, values={"optimizer.lr": 1e-3}
    )
    better = run_of(
        "trial 1: lr 0.004", 0, {"val_loss": 1.9876, "seconds": 4.0}, trial=1, values={"optimizer.lr": 0.004}
    )
    cut = run_of(
        "trial 2: lr 0.01", 0, {"val_loss": 2.5}, trial=2, values={"optimizer.lr": 0.01}, state="pruned",
        ended="pruned at rung 1 of 3",
    )  # fmt: skip
    arms = tuple(Arm(run.arm, (run,)) for run in (base, better, cut))
    definition = replace(record.definition, cells=(), space=SPACE)
    return replace(record, arms=arms, baseline=base.arm, definition=definition)


def test_the_difference_to_the_baseline_stands_beside_the_noise_where_it_was_measured(searched):
    section = search._best(searched, Noise(0.0031, 30, "tiny-confirm", "trial 1 is the best"), "here")
    assert section.texts == (
        "Trial 1 has the lowest validation loss, 1.9876 nats per character: -0.0124 against the baseline's 2.0000 "
        "(0.6% lower).",
        "The noise between seeds, measured by tiny-confirm on 30 runs: a standard deviation of 0.0031, so that two "
        "single runs that differ by less than 0.00859 are not told apart; this difference is 4.0 standard deviations. "
        "The confirmation says: trial 1 is the best.",
    )
    assert section.commands == ("fixed:", "  optimizer.lr: 0.004")


def test_without_a_confirmation_it_says_that_the_noise_is_not_known(searched):
    texts = search._best(searched, None, "here").texts
    assert "The noise between seeds was not measured here" in texts[1]
    assert "flatters it" in texts[2]
    alone = replace(searched, arms=searched.arms[:1])
    assert (
        search._best(alone, None, "here")
        .texts[0]
        .endswith("2.0000 nats per character: that is the baseline itself.")
    )
    without = replace(searched, baseline=None)
    assert "There is no baseline" in search._best(without, None, "here").texts[0]


def test_a_baseline_that_was_not_trained_to_its_end_is_there_and_cannot_be_compared(searched):
    baseline, best = searched.arms[0], searched.best_arms[0]
    run = replace(baseline.runs[0], state="pruned", ended="paused at rung 1 of 3, not promoted")
    waits = replace(baseline, runs=(run,))
    arms = tuple(waits if arm is baseline else arm for arm in searched.arms)
    assert best is not baseline
    assert (
        search._best(replace(searched, arms=arms), None, "here")
        .texts[0]
        .endswith(
            f". The baseline, trial {run.trial}, has no whole run to compare it with: paused at rung 1 of 3, "
            "not promoted."
        )
    )


def test_those_that_came_farther_come_first_and_reasons_are_left_to_their_section(searched):
    waited = [
        run_of(
            f"trial {n}", 0, {"val_loss": loss}, trial=n, state="pruned",
            ended=f"paused at rung {rungs} of 3, not promoted",
            curve=tuple(evaluation(1000 * i, loss) for i in range(1, rungs + 1)),
        )
        for n, rungs, loss in ((3, 1, 2.4), (4, 2, 2.9), (5, 2, 2.8))
    ]  # fmt: skip
    failed = run_of("trial 6", 0, {}, trial=6, state="diverged", ended="diverged: the loss of step 3 is nan")
    arms = (*searched.arms, *(Arm(run.arm, (run,)) for run in (*waited, failed)))
    table = search.trials_table(replace(searched, arms=arms, baseline=None))
    assert "minus baseline" not in table.headings
    assert [row[:2] for row in table.rows] == [
        ("1", "complete"), ("0", "complete"), ("5", "paused at rung 2 of 3"), ("4", "paused at rung 2 of 3"),
        ("3", "paused at rung 1 of 3"), ("2", "pruned at rung 1 of 3"), ("6", "diverged"),
    ]  # fmt: skip


def test_all_trials_have_their_values_best_first(searched):
    table = search.trials_table(searched)
    assert table.headings == (
        "trial",
        "ended",
        "val_loss",
        "minus baseline",
        "lr",
        "optimizer",
        "sharpness",
        "seconds",
    )
    assert table.rows == (
        ("1", "complete", "1.9876", "-0.0124", "0.004", "–", "–", "4.0"),
        ("0", "complete", "2.0000", "–", "0.001", "–", "–", "3.0"),
        ("2", "pruned at rung 1 of 3", "2.5000", "–", "0.01", "–", "–", "–"),
    )
