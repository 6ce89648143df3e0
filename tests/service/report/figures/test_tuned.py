"""What is said of a search: which parameters matter, and where two methods disagree."""

import random
from dataclasses import replace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from service.report.figures import interactive, static, tuned
from service.report.record.study_record import Arm
from tests.service.report.conftest import evaluation, run_of

LR = FloatDistribution(1e-4, 1e-2, log=True)
DROPOUT = FloatDistribution(0.0, 0.5)
METHOD = CategoricalDistribution(["none", "sam", "asam"])


def study_of(*trials):
    study = optuna.create_study()
    for value, params, distributions in trials:
        study.add_trial(create_trial(value=value, params=params, distributions=distributions))
    return study


def searched(loss, *, n=40, lr=LR):
    """A study of a known loss over lr and dropout."""
    rng = random.Random(1)
    points = [
        {"lr": lr.low * (lr.high / lr.low) ** rng.random(), "dropout": rng.uniform(0, 0.5)} for _ in range(n)
    ]
    return study_of(*((loss(**point), point, {"lr": lr, "dropout": DROPOUT}) for point in points))


def test_both_methods_find_the_one_parameter_that_matters():
    found = tuned.importances(searched(lambda lr, dropout: 1e3 * lr + dropout / 1e3))
    assert found.trials == 40
    assert list(found.fanova) == list(found.ped_anova) == ["lr", "dropout"]
    assert found.fanova["lr"] > 0.95
    assert found.dropped == found.warnings == ()


def test_rankings_that_differ_are_warned_of():
    found = tuned.Importances(12, {"lr": 0.9, "dropout": 0.1}, {"dropout": 0.6, "lr": 0.4})
    (warning,) = found.warnings
    assert "(lr by fANOVA, dropout by PED-ANOVA, on 12 trials)" in warning
    alike = tuned.Importances(12, {"a": 0.6, "b": 0.3, "c": 0.1}, {"a": 0.6, "c": 0.3, "b": 0.1})
    assert not alike.warnings, "of many parameters the lesser ones never come in one order"


def test_a_parameter_that_not_every_trial_has_is_named_where_fanova_drops_it():
    study = searched(lambda lr, dropout: 1e3 * lr + dropout, n=20)
    for i in range(5):
        study.add_trial(create_trial(value=1.0 + i, params={"lr": 1e-3}, distributions={"lr": LR}))
    found = tuned.importances(study)
    assert set(found.fanova) == {"lr"}
    assert found.dropped == ("dropout",)
    assert "fANOVA leaves out dropout" in found.warnings[0]


def test_a_range_that_was_changed_half_way_is_dropped_as_well():
    study = searched(lambda lr, dropout: 1e3 * lr + dropout, n=10)
    wider = searched(lambda lr, dropout: 1e3 * lr + dropout, n=10, lr=FloatDistribution(1e-4, 2e-2, log=True))
    study.add_trials(wider.get_trials())
    assert tuned.importances(study).dropped == ("lr",)


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 4.0], [1.0] * 9])
def test_few_trials_and_equal_losses_have_no_importances(values):
    params = [{"lr": 1e-3 * (1 + i)} for i in range(len(values))]
    study = study_of(*((value, point, {"lr": LR}) for value, point in zip(values, params, strict=True)))
    assert tuned.importances(study) is None


def search_record(record, *runs):
    arms = tuple(Arm(f"trial {run.trial}", (run,)) for run in runs)
    return replace(record, arms=arms, baseline=arms[0].name, definition=replace(record.definition, cells=()))


def trained(trial, *losses, state="complete"):
    curve = tuple(evaluation(1000 * i, loss) for i, loss in enumerate(losses, start=1))
    config = {"training": {"tokens": 4000}}
    figures = {"val_loss": losses[-1]} if losses else {}
    return run_of(f"trial {trial}", 0, figures, trial=trial, curve=curve, config=config, state=state)


def test_the_history_has_every_trial_and_the_best_so_far(record):
    runs = [trained(0, 3.0), trained(1, 4.0), trained(2, 3.5, state="pruned"), trained(3, 2.0)]
    runs.append(trained(4, 2.5, state="running"))  # as one that waits
    study = study_of((3.0, {}, {}))
    (history,) = tuned.plots(search_record(record, *runs), study, None)
    best, complete, short = history.panels[0].series
    assert (best.x, best.y, best.stepped) == ((0, 1, 3, 4), (3.0, 3.0, 2.0, 2.0), True)
    assert (complete.x, complete.y) == ((0, 1, 3), (3.0, 4.0, 2.0))
    assert (short.x, short.y, short.dashed) == ((2, 4), (3.5, 2.5), True)
    assert short.name == "not trained to the end, at its last rung"


def test_in_the_history_a_loss_that_went_astray_stands_at_the_edge(record):
    runs = [*(trained(i, 2.0 + i / 10) for i in range(8)), trained(8, 4029.0, state="pruned")]
    (history,) = tuned.plots(search_record(record, *runs), study_of((3.0, {}, {})), None)
    assert [series.name for series in history.legend] == [
        "best so far", "complete", "higher than 4.4, drawn there",
    ]  # fmt: skip


def test_parallel_coordinates_place_each_value_in_its_range(record):
    study = study_of(
        (2.0, {"lr": 1e-3, "method": "sam"}, {"lr": LR, "method": METHOD}),
        (1.0, {"lr": 1e-2, "dropout": 0.1}, {"lr": LR, "dropout": DROPOUT}),
    )
    plots = tuned.plots(search_record(record, trained(0, 2.0), trained(1, 1.0)), study, None)
    chart = plots[-1].panels[0]
    assert chart.y.categories == (
        "lr\n0.0001 to 0.01, log", "method\nnone, sam, asam", "dropout\n0 to 0.5",
    )  # fmt: skip
    worst, best = chart.series
    assert (worst.x, worst.y) == (pytest.approx((0.5, 0.5)), (0, 1))
    assert (best.x, best.y) == (pytest.approx((1.0, 0.2)), (0, 2))
    assert (worst.shade, best.shade) == (1, 0)
    low, high = interactive.draw(plots[-1])[0].layout.xaxis.range
    assert low < 0 < 1 < high
    assert static.draw(plots[-1]).axes[0].get_xlim() == pytest.approx((low, high))


def test_importances_are_drawn_as_they_are(record):
    found = tuned.Importances(12, {"lr": 1.0}, {"dropout": 0.25, "lr": 0.75})
    plots = tuned.plots(search_record(record, trained(0, 2.0)), study_of((2.0, {}, {})), found)
    chart = plots[-1].panels[0]
    ped, fanova = chart.series
    assert chart.y.categories == ("lr", "dropout")
    assert (ped.x, ped.y) == ((0.75, 0.25), (0, 1))
    assert (fanova.x, fanova.y) == ((1.0,), (0,))


def test_pruned_trials_are_no_evidence_of_importance():
    study = searched(lambda lr, dropout: 1e3 * lr, n=4)
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params={"lr": 1e-3, "dropout": 0.1},
            distributions={"lr": LR, "dropout": DROPOUT},
        )
    )
    assert tuned.importances(study) is None
