"""What a report says of pruning: of a real audited study, and of records made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState

from service.report.page import content, pruning, text
from service.report.pruning.replay import orders_of, pruned_curves
from service.study.pruners import MedianConfig
from service.study.samplers import ThawConfig
from tests.conftest import tiny_study
from tests.service.report.conftest import read_record
from tests.service.report.figures.test_tuned import search_record, trained

SEARCH = """\
space:
  optimizer.lr: {type: float, low: 1.0e-9, high: 1.0e-2, log: true}
  schedule.decay: {type: categorical, choices: [cosine, wsd]}
sampler: {name: random}
pruner: {name: median, warmup_fraction: 0.3, startup_trials: 2, audit: 1.0}
"""


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Ten trials of which the pruner would have stopped some, and all ran to their ends."""
    study = tiny_study(tmp_path_factory.mktemp("audited"))
    study.write(SEARCH, **{"training.tokens": 4500})
    study.create(10)
    study.worker().work()
    return study


@pytest.fixture(scope="module")
def audited_record(audited):
    return read_record(audited)


def named(tables):
    return {table.id: table for table in tables}


def test_audited_trials_are_marked_where_the_median_of_all_before_them_was_better(audited):
    # the rule written out; audited trials are complete ones, and count in the median of those after them
    trials = audited.trials()
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    expected = {}
    for trial in trials[2:]:
        values = list(trial.intermediate_values.values())
        for rung, tokens in enumerate((1500, 3000), start=1):
            median = np.median([other.intermediate_values[tokens] for other in trials[: trial.number]])
            if min(values[:rung]) > median:
                expected[trial.number] = {
                    "rung": rung, "rungs": 3, "tokens": tokens, "val_loss": values[rung - 1],
                }  # fmt: skip
                break
    marks = {trial.number: trial.user_attrs["audit"] for trial in trials if "audit" in trial.user_attrs}
    assert marks == expected
    assert marks


def test_the_report_of_an_audited_study_has_every_table(audited_record):
    found = named(pruning.tables(audited_record))
    assert list(found) == ["pruning", "pruning-audit", "pruning-ranks", "pruning-replay"]
    stopped = [run for run in audited_record.runs if run.audit]
    (row,) = found["pruning"].rows
    cost = sum(4500 - run.audit["tokens"] for run in stopped)
    assert row == ("10", "0", "45,000", "45,000", "0", "0.0%", f"{cost:,}")
    kept = [run.metrics["val_loss"] for run in audited_record.runs if not run.audit]
    lost, half = found["pruning-audit"].rows
    finals = [run.metrics["val_loss"] for run in stopped]
    assert lost[1:3] == (str(sum(loss < min(kept) for loss in finals)), str(len(stopped)))
    assert half[1:3] == (str(sum(loss < np.median(kept) for loss in finals)), str(len(stopped)))
    assert found["pruning-audit"].notes[0].startswith("Too few trials were audited to tell")
    assert found["pruning-ranks"].headings == ("rung, tokens", "of the budget", "all trials, 10")
    assert [row[:2] for row in found["pruning-ranks"].rows] == [("1,500", "33.3%"), ("3,000", "66.7%")]
    assert "Fewer than 10 complete trials: decay cosine, decay wsd." in found["pruning-ranks"].notes


def test_the_schedules_values_come_from_the_trials(audited_record):
    curves = pruning.curves_of(audited_record)
    configs = {run.trial: run.config for run in audited_record.runs}
    assert [curve.trial for curve in curves] == list(range(10))
    for curve in curves:
        assert curve.settings == {"schedule.decay": configs[curve.trial]["schedule"]["decay"]}
    assert len({curve.settings["schedule.decay"] for curve in curves}) == 2


def test_a_replay_stops_what_the_table_says(audited_record):
    table = named(pruning.tables(audited_record))["pruning-replay"]
    row = next(row for row in table.rows if row[0] == "median, warm-up 0.333")
    section = MedianConfig(name="median", warmup_fraction=0.333)
    cut = [pruned_curves(order, section) for order in orders_of(pruning.curves_of(audited_record))]
    pruned = [curve for order in cut for curve in order if curve.ended == "pruned"]
    assert float(row[1]) == pytest.approx(len(pruned) / 5)
    assert row[2] == f"{sum(4500 - curve.tokens for curve in pruned) / (5 * 45_000):.1%}"


def test_the_tables_are_in_markdown_and_on_the_page_under_what_they_say(audited_record):
    built = content.build(audited_record, None)
    written = text.markdown(built)
    for title in ("What pruning saved", "Stopped wrongly", "How early the final order shows"):
        assert f"## {title}\n" in written
    own = [table for table in built.tables if pruning.has(table)]
    section = pruning.section(own)
    assert section.texts == tuple(table.notes[0] for table in own)
    assert [table.id for table in section.tables] == [table.id for table in own]
    assert not {said for table in section.tables for said in table.notes} & set(section.texts)


def test_pruning_saved_the_rest_of_the_budgets(record):
    study = search_record(
        record, trained(0, 4, 3, 2, 1), trained(1, 5, state="pruned"), trained(2, 5, 4, state="pruned"),
        trained(3, 9, state="diverged"), trained(4, state="failed"),
    )  # fmt: skip
    found = named(pruning.tables(study))
    assert found["pruning"].rows == (("3", "2", "12,000", "7,000", "5,000", "41.7%", "0"),)
    assert found["pruning"].notes[0] == "Pruning saved 41.7% of the tokens."
    # nobody was let run on: the page says so, and has no empty table
    assert "stopped wrongly cannot be told: none ran on to its end" in found["pruning-audit"].notes[0]
    assert "`audit: 0.05`" in found["pruning-audit"].notes[0]
    assert [table.id for table in pruning.section(list(found.values())).tables] == ["pruning"]


def test_of_trials_that_wait_it_is_said_how_many_never_went_on_and_no_verdict(record):
    study = search_record(
        record, trained(0, 4, 3, 2, 1), trained(1, 5, state="pruned"), trained(2, 5, 4, state="pruned")
    )
    thaw = replace(study, definition=replace(study.definition, sampler=ThawConfig(name="thaw")))
    found = named(pruning.tables(thaw))
    assert found["pruning"].notes[0] == (
        "Of 3 trials that were begun 2 waited to the end and never went on, 41.7% of the tokens that all would have "
        "taken."
    )
    assert "pruning-audit" not in found


def test_what_the_audit_cost_is_said(record):
    to_be_stopped = replace(trained(1, 5, 4, 3, 2), audit={"rung": 2, "rungs": 4, "tokens": 2000})
    study = search_record(record, trained(0, 4, 3, 2, 1), to_be_stopped, trained(2, 6, state="pruned"))
    found = named(pruning.tables(study))
    assert found["pruning"].rows == (("3", "1", "12,000", "9,000", "3,000", "25.0%", "2,000"),)
    assert found["pruning"].notes[0] == (
        "Pruning saved 25.0% of the tokens; its audit cost 16.7%, which is taken off already."
    )
    assert found["pruning-audit"].rows[0][1:] == ("0", "1", "0.0%", "0.0% to 97.5%")
    assert found["pruning-audit"].notes[0] == (
        "Too few trials were audited to tell how often the pruner is wrong, 1 of the 20 that it takes: between 0% and "
        "98% of what it stops."
    )


def test_audited_trials_without_others_to_compare_them_with_say_so(record):
    alone = replace(trained(0, 5, 4, 3, 2), audit={"tokens": 2000})
    found = named(pruning.tables(search_record(record, alone)))
    assert found["pruning-audit"].notes[0].endswith("cannot be told: no other trial is complete.")


def test_enough_audits_give_a_share(record):
    kept = [trained(i, 4, 3, 2, 1 + i / 100) for i in range(10)]
    losers = [replace(trained(10 + i, 5, 4, 4, 4), audit={"tokens": 2000}) for i in range(24)]
    winner = replace(trained(40, 5, 4, 3, 0.5), audit={"tokens": 2000})
    (said, note) = named(pruning.tables(search_record(record, *kept, *losers, winner)))["pruning-audit"].notes
    # 1 of 25: 0.1 % to 20.4 % (Clopper and Pearson)
    assert said == (
        "4% of what the pruner stops, between 0% and 20%, would have ended in the better half of what it keeps. 1 "
        "would have been better than the best that it kept."
    )
    assert note.startswith("Of 25 trials that the pruner stopped, 25 were drawn and ran on to their end.")


def test_the_warm_up_that_follows_is_said(record):
    runs = [trained(i, 9 - i, i, i + 0.1, i / 2) for i in range(10)]
    table = named(pruning.tables(search_record(record, *runs)))["pruning-ranks"]
    assert table.notes[0].endswith("is 0.9 or more: all trials 0.5.")
    assert table.rows[0][2] == "-1.00 (-1.00 to -0.96)"
    assert table.rows[2][2] == "1.00 (0.96 to 1.00)"
    late = [trained(i, 9 - i, 9 - i, 9 - i, i / 2) for i in range(10)]
    table = named(pruning.tables(search_record(record, *late)))["pruning-ranks"]
    assert table.notes[0].endswith("is 0.9 or more: all trials none, prune nothing.")


def test_a_design_that_is_not_pruned_says_nothing_of_pruning(record):
    assert pruning.tables(record) == ()


def test_a_few_trials_and_none_at_all_have_no_ranks_and_no_replay(record):
    assert [table.id for table in pruning.tables(search_record(record, trained(0, 4, 3, 2, 1)))] == [
        "pruning"
    ]
    assert pruning.tables(search_record(record, trained(0, state="failed"))) == ()
