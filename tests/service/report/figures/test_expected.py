"""Trials that wait, as if each had been trained to its end."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from service.report.figures.expected import at_the_end
from service.report.figures.tuned import importances
from service.report.record.study_record import Arm
from service.study.parameters import CategoricalParameter, FloatParameter
from service.study.samplers import RandomConfig, ThawConfig
from service.study.search_space import SearchSpace
from tests.service.report.conftest import evaluation, run_of

SPACE = SearchSpace(
    {
        "optimizer.lr": FloatParameter(type="float", low=1e-4, high=1e-2, log=True),
        "model.dropout": FloatParameter(type="float", low=0.0, high=0.5),
        "optimizer.name": CategoricalParameter(type="categorical", choices=("adamw", "sgd")),
    }
)


def end(values):
    """The rate matters and the rest nearly not."""
    return 2.0 + 0.5 * (math.log10(values["optimizer.lr"]) + 2.5) ** 2 + 0.01 * values["model.dropout"]


def trained(number, rungs):
    rng = np.random.default_rng(number)
    values = {
        "optimizer.lr": 10 ** rng.uniform(-4, -2),
        "model.dropout": rng.uniform(0, 0.5),
        "optimizer.name": "adamw",
    }
    curve = tuple(evaluation(1000 * i, end(values) + 1.0 / i - 0.25) for i in range(1, rungs + 1))
    state, ended = ("complete", "complete") if rungs == 4 else ("pruned", f"paused at rung {rungs} of 4")
    figures = {"val_loss": curve[-1]["val_loss"]}
    return run_of(
        f"trial {number}", 0, figures, trial=number, values=values, curve=curve, state=state, ended=ended
    )


@pytest.fixture
def searched(record):
    def make(*runs, sampler=None):
        definition = replace(
            record.definition, cells=(), space=SPACE, sampler=sampler or ThawConfig(name="thaw")
        )
        arms = tuple(Arm(run.arm, (run,)) for run in runs)
        return replace(record, arms=arms, baseline=None, definition=definition)

    return make


def test_trials_that_waited_count_by_the_loss_they_would_have_had(searched):
    runs = [trained(n, 4 if n < 4 else 1 + n % 3) for n in range(30)]
    study = at_the_end(searched(*runs))
    assert [trial.params for trial in study.trials] == [dict(run.values) for run in runs]
    expected, true = [trial.value for trial in study.trials], [end(run.values) for run in runs]
    assert spearmanr(expected, true).statistic > 0.97
    last = [run.metrics["val_loss"] for run in runs]
    assert spearmanr(last, true).statistic < 0.9, "their last losses would not do"
    found = importances(study, forecast=True)
    assert found.trials == 30
    assert found.fanova["optimizer.lr"] > 0.9


def test_it_keeps_to_the_thread_that_asks_for_it(searched, fitting_threads):
    assert at_the_end(searched(*(trained(n, 4) for n in range(5))))
    assert set(fitting_threads) == {1}


def test_what_has_no_loss_or_is_none_of_the_space_is_left_out(searched):
    runs = [trained(n, 4) for n in range(3)]
    outside = replace(runs[0], trial=3, values={**runs[0].values, "optimizer.lr": 1.0})
    unknown = replace(runs[0], trial=4, values={"seed": 1})
    empty = replace(runs[0], trial=5, curve=(), state="failed")
    wild = replace(runs[0], trial=6, curve=(evaluation(1000, math.nan),), state="diverged")
    assert len(at_the_end(searched(*runs, outside, unknown, empty, wild)).trials) == 3
    diverged = replace(trained(7, 2), state="diverged")
    interrupted = replace(trained(8, 2), state="failed")
    assert len(at_the_end(searched(*runs, diverged, interrupted)).trials) == 3


def test_a_result_from_elsewhere_counts_by_its_end_alone(searched):
    runs = [trained(n, 4) for n in range(4)]
    added = replace(trained(4, 4), curve=(), added=True)
    study = at_the_end(searched(*runs, added))
    assert len(study.trials) == 5
    ends = [run.metrics["val_loss"] for run in (*runs, added)]
    assert np.argsort([trial.value for trial in study.trials]).tolist() == np.argsort(ends).tolist()


def test_it_is_asked_of_searches_alone_whose_trials_wait_and_of_which_some_are_whole(searched):
    runs = [trained(n, 4) for n in range(6)]
    assert at_the_end(searched(*runs, sampler=RandomConfig(name="random"))) is None
    assert at_the_end(searched(runs[0], *(trained(n, 1) for n in range(1, 6)))) is None
