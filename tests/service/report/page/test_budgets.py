"""Costs, leaderboards at equal budgets, and their figure: on arms of plain numbers."""

from dataclasses import replace

import pytest

from service.report.page import budgets
from service.report.record.study_record import Arm
from tests.service.report.conftest import evaluation, run_of


def arm(name, losses, rungs, *, passes=1, rate=1000.0, seeds=(1, 2)):
    flops = 100.0 * passes
    runs = [
        run_of(
            name, seed,
            {"val_loss": losses[-1] + seed, "passes_per_token": passes, "flops_per_token": flops,
             "tokens": rungs[-1], "train_flops": flops * rungs[-1], "train_seconds": rungs[-1] / rate},
            curve=tuple(evaluation(r, loss + seed, rate=rate) for r, loss in zip(rungs, losses, strict=True)),
        )
        for seed in seeds
    ]  # fmt: skip
    return Arm(name, tuple(runs))


PLAIN = arm("plain", (3.0, 2.5), (1280, 2560))
SAM = arm("SAM", (2.9, 2.3), (1280, 2560), passes=2, rate=500.0)
LONG = arm("long", (2.9, 2.7, 2.0), (1280, 2560, 5120))


@pytest.fixture
def of(record):
    def make(*arms, baseline=None, tuned=False):
        definition = replace(record.definition, cells=(), arms=()) if tuned else record.definition
        return replace(record, arms=arms, baseline=baseline or arms[0].name, definition=definition)

    return make


def rows(table):
    return {row[0]: dict(zip(table.headings, row, strict=True)) for row in table.rows}


def test_costs_stand_beside_every_loss_best_first(of):
    table = budgets.tables(of(PLAIN, SAM))[0]
    assert [row[0] for row in table.rows] == ["SAM", "plain"]
    assert rows(table)["SAM"] == {
        "arm": "SAM", "val_loss at its end": "3.8000 ± 0.7071", "forward passes a token": "2",
        "backward passes a token": "2", "FLOPs a token": "2.000e2", "tokens": "2,560", "FLOPs of training": "5.120e5",
        "seconds of training": "5.12",
    }  # fmt: skip
    assert rows(table)["plain"]["FLOPs of training"] == "2.560e5"
    assert "two of each with SAM and ASAM" in table.notes[0]
    assert table.notes[1] == "All arms end at the same tokens and steps: this is their order there."


def test_at_equal_operations_an_arm_of_two_passes_is_read_half_way_and_said_to_be_at_a_disadvantage(of):
    table = budgets.at_equal(of(PLAIN, SAM), "FLOPs")
    # 256,000 operations are 1,280 tokens of SAM: its first rung, 2.9 + seed
    assert rows(table) == {
        "plain": {"arm": "plain", "its own end, FLOPs": "2.560e5", "val_loss there": "4.0000 ± 0.7071",
                  "val_loss at equal FLOPs": "4.0000 ± 0.7071", "minus plain": "–", "95 % interval": "–"},
        "SAM": {"arm": "SAM", "its own end, FLOPs": "5.120e5", "val_loss there": "3.8000 ± 0.7071",
                "val_loss at equal FLOPs": "4.4000 ± 0.7071 *", "minus plain": "0.400",
                "95 % interval": "0.400 to 0.400"},
    }  # fmt: skip
    assert [row[0] for row in table.rows] == ["plain", "SAM"]
    assert table.title == "val_loss at equal FLOPs: 2.560e5"
    assert table.notes[1].startswith("* In the middle of its schedule, and at a disadvantage")


def test_an_arm_that_ended_before_the_reference_is_named_and_stands_with_its_end(of):
    table = budgets.at_equal(of(LONG, PLAIN), "tokens")
    assert rows(table)["plain"]["val_loss at equal tokens"] == "4.0000 ± 0.7071 †"
    assert rows(table)["long"]["val_loss at equal tokens"] == "3.5000 ± 0.7071"
    assert table.notes == (
        "The budget: 5,120 training tokens, where long ends. Losses are linear between rungs.",
        "† Ended before, on less, and stands with its loss there: plain.",
    )


def test_the_budget_is_the_references(of):
    long_first = budgets.at_equal(of(LONG, PLAIN), "tokens")
    plain_first = budgets.at_equal(of(LONG, PLAIN, baseline="plain"), "tokens")
    assert "5,120 training tokens" in long_first.notes[0]
    assert "2,560 training tokens" in plain_first.notes[0]
    assert rows(plain_first)["long"]["val_loss at equal tokens"] == "4.2000 ± 0.7071 *"
    assert rows(plain_first)["long"]["minus plain"] == "0.200"


def test_a_baseline_without_a_complete_run_leaves_the_budget_to_the_best(of):
    cut = replace(PLAIN, runs=tuple(replace(run, state="diverged") for run in PLAIN.runs))
    assert budgets.reference(of(cut, SAM, LONG)).name == "long"
    assert budgets.reference(of(PLAIN, SAM, LONG)).name == "plain"
    assert budgets.tables(of(cut, SAM)) == []


def test_an_arm_that_was_not_evaluated_by_then_has_no_loss_and_the_last_place(of):
    late = arm("late", (1.0,), (9000,))
    table = budgets.at_equal(of(PLAIN, late, SAM), "tokens")
    assert [row[0] for row in table.rows] == ["SAM", "plain", "late"]
    assert rows(table)["late"]["val_loss at equal tokens"] == "–"
    assert table.notes[-1] == "–: not evaluated by then, its first rung lies beyond: late."


def test_where_arms_end_together_the_costs_have_their_order(of):
    assert [table.id for table in budgets.tables(of(PLAIN, SAM))] == [
        "compute",
        "equal-flops",
        "equal-seconds",
    ]
    assert [table.id for table in budgets.tables(of(PLAIN, LONG))] == [
        "compute", "equal-tokens", "equal-steps", "equal-flops", "equal-seconds",
    ]  # fmt: skip
    assert all(budgets.has(table) for table in budgets.tables(of(PLAIN, LONG)))


def test_of_a_search_the_best_within_the_budget_are_shown_and_the_reference(of):
    # the later, the better at the end; at equal operations the cheaper trials are ahead
    trials = [
        arm(f"trial {i}", (5.0 - i / 50, 4.0 - i / 50), (1280, 2560), passes=1 + (i > 20), seeds=(1,))
        for i in range(30)
    ]
    found = {table.id: table for table in budgets.tables(of(*trials, tuned=True))}
    assert [row[0] for row in found["compute"].rows] == [f"trial {i}" for i in range(29, 9, -1)]
    assert "The best 20 of 30." in found["compute"].notes
    equal = found["equal-flops"]
    assert [row[0] for row in equal.rows] == [*(f"trial {i}" for i in range(20, 0, -1)), "trial 0"]
    assert equal.headings[-1] == "minus trial 0"
    assert rows(equal)["trial 20"]["minus trial 0"] == "-0.400"
    assert "The best 21 of 30 complete trials, each with one seed." in equal.notes


def test_curves_are_drawn_against_what_they_cost_with_the_budget(of):
    plot = budgets.plot(of(PLAIN, SAM))
    tokens, flops, seconds = plot.panels
    by_name = {series.name: series for series in flops.series}
    assert by_name["plain"].x == (128_000.0, 256_000.0)
    assert by_name["SAM"].x == (256_000.0, 512_000.0)
    assert by_name["SAM"].y == pytest.approx((4.4, 3.8))
    assert by_name["where plain ends"].x == (256_000.0, 256_000.0)
    assert {series.name: series.x[-1] for series in seconds.series} == {
        "plain": 2.56, "SAM": 5.12, "where plain ends": 2.56,
    }  # fmt: skip
    assert {series.x[-1] for series in tokens.series} == {2560.0}
    assert not flops.x.log


def test_budgets_that_are_far_apart_are_drawn_on_a_logarithmic_axis(of):
    far = arm("far", (3.0, 2.5), (1280, 2560), passes=20)
    assert [panel.x.log for panel in budgets.plot(of(PLAIN, far)).panels] == [False, True, False]


@pytest.mark.parametrize("arms", [(PLAIN, SAM, LONG), (LONG, PLAIN)])
def test_rows_are_as_long_as_their_headings(of, arms):
    for table in budgets.tables(of(*arms)):
        assert {len(row) for row in table.rows} == {len(table.headings)}
