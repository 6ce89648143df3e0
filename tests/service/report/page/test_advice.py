"""What a search suggests to try next."""

from dataclasses import replace

import pytest

from service.report.figures.tuned import Importances
from service.report.page.advice import advice
from service.report.record.noise import Noise
from service.report.record.study_record import Arm
from service.study.parameters import CategoricalParameter, FloatParameter
from service.study.search_space import SearchSpace
from tests.service.report.conftest import evaluation, run_of

SPACE = SearchSpace(
    {
        "optimizer.lr": FloatParameter(type="float", low=1e-4, high=1e-2, log=True),
        "model.dropout": FloatParameter(type="float", low=0.0, high=0.5),
        "optimizer.name": CategoricalParameter(type="categorical", choices=("adamw", "sgd")),
        "training.batch_size": CategoricalParameter(type="categorical", choices=(16, 32)),
    }
)


@pytest.fixture
def searched(record):
    def make(*trials, curve=()):
        """Trials as (loss, values); values left out are in the middle and varied."""
        arms = []
        for i, (loss, values) in enumerate(trials):
            usual = {
                "optimizer.lr": 1e-3,
                "model.dropout": 0.25,
                "optimizer.name": ("adamw", "sgd")[i % 2],
                "training.batch_size": (16, 32)[i % 2],
            }
            figures = {"val_loss": loss}
            run = run_of(f"trial {i}", 0, figures, trial=i, values=usual | values, curve=curve)
            arms.append(Arm(run.arm, (run,)))
        return replace(record, arms=tuple(arms), definition=replace(record.definition, cells=(), space=SPACE))

    return make


def about(found, key):
    return [sentence.removeprefix(f"{key}: ") for sentence in found if sentence.startswith(f"{key}: ")]


def test_a_best_value_at_an_end_of_its_range_widens_it(searched):
    found = advice(searched((2.0, {}), (1.0, {"optimizer.lr": 9.9e-3, "model.dropout": 0.001})), None, None)
    assert about(found, "optimizer.lr") == [
        "the best trial has 0.0099, at the high end of the range (0.01): a better value may lie beyond; "
        "widen the range there."
    ]
    assert "fix it at 0" in about(found, "model.dropout")[0]
    assert about(advice(searched((2.0, {}), (1.0, {})), None, None), "optimizer.lr") == []


def test_a_choice_that_all_of_the_best_have_is_fixed_or_goes_on(searched):
    best = {"optimizer.name": "sgd", "training.batch_size": 16}
    worse = {"optimizer.name": "adamw", "training.batch_size": 32}
    found = advice(searched((1.0, best), (1.1, best), (1.2, best), (2.0, worse), (2.1, worse)), None, None)
    assert about(found, "optimizer.name")[0].startswith(
        "the best 3 trials all have sgd, 2 of 5 had another value: fix it"
    )
    assert about(found, "training.batch_size")[0].endswith("a smaller one may be better still.")


def test_what_mattered_little_is_fixed_unless_it_was_never_varied(searched):
    importances = Importances(
        9, {"model.dropout": 0.01, "optimizer.lr": 0.02}, {"model.dropout": 0.03, "optimizer.lr": 0.02}
    )
    varied = searched((1.0, {}), (1.1, {"model.dropout": 0.1}))
    found = advice(varied, importances, None)
    assert about(found, "model.dropout") == [
        "mattered little over its whole range (1% by fANOVA, 3% by PED-ANOVA): fix it."
    ]
    assert about(found, "optimizer.lr") == []


def test_what_is_advised_of_a_value_is_not_contradicted_by_how_little_it_mattered(searched):
    importances = Importances(9, {"model.dropout": 0.01}, {"model.dropout": 0.03})
    at_the_end = searched((1.0, {"model.dropout": 0.001}), (1.1, {}))
    (said,) = about(advice(at_the_end, importances, None), "model.dropout")
    assert "fix it at 0" in said


def test_a_loss_that_still_falls_by_more_than_the_noise_asks_for_a_larger_budget(searched):
    falling = searched((1.0, {}), curve=(evaluation(1000, 1.1), evaluation(2000, 1.0)))
    assert (
        "over its last 1,000 tokens the best trial's loss still fell by 0.100"
        in about(advice(falling, None, None), "training")[0]
    )
    noise = Noise(0.1, 10, "tiny-confirm", "")
    assert about(advice(falling, None, noise), "training") == []


def test_a_search_goes_on_where_it_still_finds_better_and_rests_where_it_does_not(searched):
    assert (
        "its last trial is its best one"
        in about(advice(searched((2.0, {}), (1.0, {})), None, None), "the search")[0]
    )
    rested = searched((1.0, {}), (2.0, {}), (3.0, {}), (2.5, {}))
    assert about(advice(rested, None, None), "the search") == [
        "none of the 3 trials after trial 0 was better; more of the same space are unlikely to gain much."
    ]
