from dataclasses import replace

from service.report.figures import grids
from service.report.figures.plots import HeatMap
from service.report.record.study_record import Arm
from tests.service.report.conftest import evaluation, run_of


def on_grid(record, lr, batch, loss, *, seed=1, tokens=9000, **settings):
    config = record.definition.config_for(
        {"optimizer.lr": lr, "training.batch_size": batch, **settings}
    ).with_tokens(tokens)
    curve = tuple(evaluation(rung, loss + 1 - rung / tokens) for rung in (tokens // 2, tokens))
    return run_of(
        f"lr {lr} batch {batch}{settings or ''}", seed, {"val_loss": loss, "tokens_per_second": 100.0 * batch},
        config=config.model_dump(mode="json"), curve=curve,
    )  # fmt: skip


def grid_record(record, *runs):
    return replace(record, arms=tuple(Arm(run.arm, (run,)) for run in runs), baseline=runs[0].arm)


def test_a_grid_is_found_among_other_arms_and_drawn_on_every_axis(record):
    runs = [on_grid(record, lr, batch, 10 * batch + lr) for lr in (0.1, 0.2, 0.4) for batch in (4, 8)]
    beside = on_grid(record, 0.1, 4, 1.0, **{"model.dropout": 0.3})
    study = grid_record(record, *runs, beside)
    grid = grids.find_grid(study)
    assert (grid.x, grid.xs) == ("optimizer.lr", (0.1, 0.2, 0.4))
    assert (grid.y, grid.ys) == ("training.batch_size", (4, 8))
    losses, costs = grids.build(study)
    assert [panel.title.split(":")[0] for panel in losses.panels] == [
        "Final loss, each arm at its own end", "At equal tokens", "At equal steps", "At equal seconds",
    ]  # fmt: skip
    final = losses.panels[0]
    assert isinstance(final, HeatMap)
    assert (final.x.categories, final.y.categories) == (("0.1", "0.2", "0.4"), ("4", "8"))
    assert final.values == ((40.1, 40.2, 40.4), (80.1, 80.2, 80.4))
    assert [panel.title for panel in costs.panels] == ["Throughput"]
    assert "Stability: runs that did not diverge: 1 everywhere." in costs.caption


def test_a_cell_without_a_complete_run_is_empty(record):
    runs = [on_grid(record, lr, batch, 1.0) for lr in (0.1, 0.2) for batch in (4, 8)]
    runs[3] = replace(runs[3], state="diverged")
    losses, costs = grids.build(grid_record(record, *runs))
    assert losses.panels[0].values == ((1.0, 1.0), (1.0, None))
    assert costs.panels[0].values == ((1.0, 1.0), (1.0, 0.0))


def test_arms_that_differ_in_one_number_or_fill_no_grid_have_no_heat_map(record):
    assert grids.build(record) == ()
    diagonal = [on_grid(record, lr, batch, 1.0) for lr, batch in ((0.1, 4), (0.2, 8), (0.4, 16))]
    assert grids.build(grid_record(record, *diagonal)) == ()
