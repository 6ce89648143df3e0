"""Slices: each parameter of a search against the loss."""

from dataclasses import replace

from service.report.figures import slices
from service.report.record.study_record import Arm
from service.study.parameters import CategoricalParameter, FloatParameter
from service.study.search_space import SearchSpace
from tests.service.report.conftest import run_of

SPACE = SearchSpace(
    {
        "optimizer.lr": FloatParameter(type="float", low=1e-4, high=1e-2, log=True),
        "optimizer.name": CategoricalParameter(type="categorical", choices=("adamw", "sgd")),
    }
)


def searched(record, *trials):
    runs = [
        run_of(f"trial {i}", 0, {"val_loss": loss}, trial=i, state=state, values=values)
        for i, (loss, state, values) in enumerate(trials)
    ]
    arms = tuple(Arm(run.arm, (run,)) for run in runs)
    return replace(record, arms=arms, definition=replace(record.definition, cells=(), space=SPACE))


def test_each_parameter_has_a_panel_with_the_trials_that_have_it(record):
    plot = slices.plot(
        searched(
            record,
            (2.0, "complete", {"optimizer.lr": 1e-3, "optimizer.name": "sgd"}),
            (1.5, "complete", {"optimizer.lr": 2e-3, "optimizer.name": "adamw"}),
            (3.0, "pruned", {"optimizer.lr": 1e-4}),
            (9.0, "failed", {"optimizer.lr": 1e-4}),
        )
    )
    lr, name = plot.panels
    assert (lr.x.label, lr.x.log, name.x.categories) == ("optimizer.lr", True, ("adamw", "sgd"))
    complete, pruned = lr.series
    assert (complete.x, complete.y) == ((1e-3, 2e-3), (2.0, 1.5))
    assert (pruned.x, pruned.y, pruned.dashed) == ((1e-4,), (3.0,), True)
    assert [(series.x, series.y) for series in name.series] == [((1.0, 0.0), (2.0, 1.5))]


def test_what_a_logarithmic_axis_or_the_space_does_not_have_is_left_out(record):
    found = searched(
        record,
        (2.0, "complete", {"optimizer.lr": 0.0, "optimizer.name": "muon"}),
        (float("nan"), "complete", {"optimizer.lr": 1e-3, "optimizer.name": "sgd"}),
    )
    assert slices.plot(found) is None


def test_a_loss_that_went_astray_stands_at_the_edge_of_every_panel(record):
    values = {"optimizer.lr": 1e-3, "optimizer.name": "sgd"}
    trials = [(2.0 + i / 10, "complete", values) for i in range(6)]
    plot = slices.plot(searched(record, *trials, (4029.0, "pruned", values)))
    assert [[series.name for series in panel.series] for panel in plot.panels] == [
        ["complete", "higher than 3.6, drawn there"]
    ] * 2
