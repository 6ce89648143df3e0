from dataclasses import replace

import pytest

from service.report.page import tables
from service.report.published.document import PublishedTable


def rows(table):
    """By the first cell, each a mapping from heading to cell."""
    return {row[0]: dict(zip(table.headings, row, strict=True)) for row in table.rows}


def test_the_summary_has_a_row_an_arm(record):
    found = rows(tables.summary(record))
    assert list(found) == ["slow", "fast", "wild"]
    # 2.0, 2.2, 2.4: sd 0.2, t(0.975; 2) · 0.2/√3 = 0.497
    expected = {"runs": "3", "val_loss, mean ± sd": "2.2000 ± 0.2000", "95 % interval": "1.7032 to 2.6968"}
    expected |= {"parameters": "9,000", "tokens": "8,960", "steps": "70", "seconds": "9.25"}
    assert found["slow"] | expected == found["slow"]
    assert found["wild"]["runs"] == "2 of 3"


def test_differences_are_to_the_baseline_with_the_seeds_they_need(record):
    found = rows(tables.paired_differences(record))
    assert list(found) == ["fast", "wild"]
    assert found["fast"] == {
        "arm": "fast", "shared seeds": "3", "difference, mean ± sd": "-0.600 ± 0.100",
        "95 % interval": "-0.848 to -0.352",
        "excludes 0": "yes", "seeds needed": "3",  # six standard deviations: power 0.60 with 2 seeds, 1.00 with 3
    }  # fmt: skip
    assert found["wild"]["shared seeds"] == "2"


def test_one_seed_has_a_difference_and_no_interval(record_of):
    record = record_of(a={"val_loss": [1.0]}, b={"val_loss": [0.9]})
    found = rows(tables.paired_differences(record))["b"]
    assert found["95 % interval"] == "one seed: no interval"
    assert found["difference, mean ± sd"] == "-0.100"
    assert found["seeds needed"] == "–"
    assert tables.paired_differences(record_of(a={"val_loss": [1.0]})) is None


def test_published_cells_stand_beside_measured_ones_with_their_notes(record):
    table = PublishedTable.model_validate_json("""{
        "id": "t2", "title": "Performance", "source": "000, table 2",
        "columns": [{"name": "loss", "metric": "val_loss", "unit": "nats", "note": "per token"}, {"name": "memory"}],
        "rows": [{"arm": "slow", "label": "Low LR", "values": {"loss": 5.18, "memory": 3},
                  "notes": {"loss": "of step 1600", "memory": "of step 1600"}},
                 {"arm": "wild", "values": {"loss": 2.851}}, {"arm": "nobody", "values": {"loss": null}}]
    }""")
    found = tables.published_table(table, record)
    assert found.headings == (
        "arm",
        "runs",
        "loss, nats: published (1)",
        "val_loss: measured",
        "memory: published",
    )
    assert found.rows == (
        ("Low LR", "3", "5.18 (2)", "2.20 ± 0.20", "3 (2)"),
        ("wild", "2 of 3", "2.851", "3.20 ± 0.28", "–"),
        ("nobody", "not run", "–", "–", "–"),
    )
    assert found.notes[1:] == ("(1) per token", "(2) of step 1600")
    assert "000, table 2" in found.notes[0]


def test_a_metric_that_some_runs_lack_says_of_how_many_it_is(record):
    predictions, stability, speed = tables.further_metrics(record)
    assert rows(predictions)["wild"]["accuracy"] == "0.4 (of 1)"
    assert rows(predictions)["slow"]["accuracy"] == "–"
    assert "utilisation" not in speed.headings
    assert rows(stability)["wild"]["grad_norm_max"] == "4 (of 1)"
    assert rows(speed)["slow"]["tokens_per_second"] == "1,000"


def test_arms_that_end_together_are_said_to(record):
    assert tables.summary(record).notes == (
        "All arms end together, so that these are the losses at equal tokens and equal steps and equal FLOPs and "
        "equal seconds.",
    )


def test_every_run_is_listed_however_it_ended(record):
    found = rows(tables.runs(record))
    assert len(found) == 9
    assert found["7"]["state"] == "diverged"
    assert found["7"]["ended"] == "diverged: the loss of step 30 is nan"
    assert found["7"]["last val_loss"] == "4.0000"


def test_a_tuned_study_shows_its_best_and_no_differences(record_of, record):
    many = {f"trial {i}": {"val_loss": [3.0 - i / 100]} for i in range(25)}
    definition = replace(record.definition, cells=(), arms=())
    tuned = replace(record_of(**many), definition=definition)
    found = tables.summary(tuned)
    assert [row[0] for row in found.rows] == [f"trial {i}" for i in range(24, 4, -1)]
    assert found.notes == ("The best 20 of 25 configurations, each with one seed.",)
    assert tables.paired_differences(tuned) is None


@pytest.mark.parametrize("of", [tables.summary, tables.runs])
def test_rows_are_as_long_as_their_headings(record, of):
    table = of(record)
    assert {len(row) for row in table.rows} == {len(table.headings)}
