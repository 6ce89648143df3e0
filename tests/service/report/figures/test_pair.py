"""The figures of two beside each other: what was found for how many tokens, and both curves."""

from dataclasses import replace

from service.report.figures import pair as figures
from service.report.record.pair import Pair, Side
from service.report.record.study_record import Arm
from tests.service.report.conftest import evaluation, run_of


def run(trial, loss, tokens, *, state="complete", **changes):
    curve = (evaluation(tokens, loss),)
    metrics = {"val_loss": loss, "tokens": tokens if state == "complete" else None}
    return run_of(f"trial {trial}", 1, metrics, trial=trial, state=state, curve=curve, **changes)


def side(record, name, *runs):
    arms = tuple(Arm(run.arm, (run,)) for run in runs)
    of = replace(record, name=name, arms=arms, definition=replace(record.definition, cells=()))
    best = min(
        (arm for arm in arms if arm.complete), key=lambda arm: arm.runs[0].metrics["val_loss"], default=None
    )
    return Side(record=of, arm=best, named=False, config=None, noise=None, label=name)


def test_tokens_of_all_trials_are_spent_and_the_best_gets_lower(record):
    of = side(
        record, "one",
        run(3, 2.5, 1280), run(0, 3.0, 1280), run(1, 4.0, 640, state="pruned"), run(2, 2.0, 1280),
    ).record  # fmt: skip
    assert figures.history(of) == ((1280, 3.0), (3200, 2.0), (4480, 2.0))


def test_what_was_taken_along_costs_nothing(record):
    pair = Pair(
        side(record, "one", run(0, 3.0, 1280)),
        side(record, "two", run(0, 3.0, 1280, added=True), run(1, 2.0, 1280)),
    )
    assert figures.history(pair.second.record) == ((0, 3.0), (1280, 2.0))
    assert "cost nothing here" in figures.history_plot(pair).caption
    assert figures.history_plot(Pair(pair.first, side(record, "none"))) is None


def test_losses_that_cannot_be_compared_have_a_panel_each(record):
    one, two = side(record, "one", run(0, 3.0, 1280)), side(record, "two", run(0, 2.0, 1280))
    (panel,) = figures.history_plot(Pair(one, two)).panels
    assert [series.name for series in panel.series] == ["one", "two"]
    assert {series.symbol for series in panel.series} == {"circle", "square"}
    assert [plot.title for plot in figures.curves(Pair(one, two))] == ["Validation loss", "Training loss"]
    other = replace(two, record=replace(two.record, corpus={**two.record.corpus, "fingerprint": "other"}))
    assert [[s.name for s in panel.series] for panel in figures.history_plot(Pair(one, other)).panels] == [
        ["one"],
        ["two"],
    ]
    assert [plot.title for plot in figures.curves(Pair(one, other))] == [
        "Validation loss: trial 0 of one",
        "Validation loss: trial 0 of two",
    ]
