import csv
import io
import json
import math
from dataclasses import replace

import pytest

from service.report.page import content, text
from service.report.published import document
from service.report.record.study_record import Arm
from tests.service.report.conftest import evaluation, run_of
from tests.service.report.published.test_document import FILE


@pytest.fixture(scope="module")
def built(record, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "published.yaml"
    path.write_text(FILE)
    return content.build(record, document.load(path))


def test_the_header_says_on_what_it_was_measured(built, record):
    facts = dict(built.facts)
    assert facts["scale"] == "the study's own, as published"
    assert facts["device"] == "a CPU"
    assert facts["seeds"] == "1, 2, 3"
    assert facts["budget of a run"] == "8,960 tokens"
    assert facts["model"] == "9,000 parameters"
    assert facts["trials"] == "8 complete, 1 diverged, 1 continued"
    assert record.corpus["fingerprint"] in facts["corpus"]


def test_what_broke_off_is_told_before_the_numbers(built):
    what, why = (
        "wild: of 3 runs 1 diverged, left out of means and intervals",
        "diverged: the loss of step 30 is nan",
    )
    assert f"{what} (trial 7, seed 2: {why})." in built.warnings
    assert "Published, and no arm of this study: nobody." in built.warnings


def test_claims_are_checked_in_their_order(built):
    assert [(claim.text, claim.verdict) for claim in built.claims] == [
        ("The highest rate is best.", "refuted"),
        ("It is faster.", "confirmed"),
        ("Memory is lower.", "not shown here"),
    ]


def test_the_tables_stand_in_order_under_ids_of_their_own(built):
    ids = [table.id for table in built.tables]
    assert ids == [
        "summary", "differences", "defects", "published-table-2", "claims", "compute", "predictions", "stability",
        "speed", "runs", "definitions",
    ]  # fmt: skip
    for table in built.tables:
        assert {len(row) for row in table.rows} == {len(table.headings)}, table.id


def test_a_scale_is_warned_of(built, record):
    scaled = content.build(replace(record, scale="cpu"), built.published)
    assert dict(scaled.facts)["scale"] == "cpu"
    assert "not at the published size" in scaled.warnings[0]
    assert not any("published size" in warning for warning in built.warnings)


def test_one_seed_is_said(record_of):
    found = content.build(record_of(slow={"val_loss": [1.0]}, fast={"val_loss": [2.0]}), None)
    assert "One seed: no interval, and no difference can be told from chance." in found.warnings
    assert "No run yet: wild." in found.warnings
    assert found.claims == ()


def test_markdown_has_the_facts_the_warnings_and_every_table(built):
    lines = text.markdown(built).splitlines()
    assert lines[0] == "# tiny"
    assert "| device | a CPU |" in lines
    assert "| fast | 3 | -0.600 ± 0.100 | -0.848 to -0.352 | yes | 3 |" in lines
    for table in built.tables:
        assert f"## {table.title}" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_hostile_text_stays_in_its_cell(built, record):
    slow = record.arms[0]
    name = "a|b\n# <script>alert(1)</script> [x](y) `c`\x1b[31m"
    run = replace(slow.runs[0], arm=name, ended=name)
    found = content.build(replace(record, arms=(Arm(name, (run,)),), baseline=name), None)
    markdown = text.markdown(found)
    assert "\x1b" not in markdown
    assert "\n# \\<script" not in markdown
    assert r"a\|b # \<script\>alert(1)\</script\> \[x\](y) \`c\`" in markdown


def test_the_result_is_strict_json_with_sorted_keys(built, record):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    written = text.result(built)
    found = json.loads(written, parse_constant=refuse)
    assert list(found) == sorted(found)
    assert written == text.result(built)
    assert found["claims"][1]["verdict"] == "confirmed"
    wild = found["arms"]["wild"]
    assert [run["state"] for run in wild] == ["complete", "diverged", "complete"]
    assert wild[0]["metrics"]["steps_per_second"] == 7.77778  # 70/9 with six digits
    assert "accuracy" not in found["arms"]["slow"][0]["metrics"]
    assert wild[0]["curve"] == {
        "rung_tokens": [3000, 6000, 9000],
        "step": [23, 46, 70],
        "train_seconds": [3.0, 6.0, 9.0],
        "val_loss": [3.6, 3.2, 3.0],
    }
    assert wild[1]["curve"] == {"rung_tokens": [3000], "val_loss": [4.0]}


def test_what_is_not_finite_is_written_as_a_word(record_of):
    record = record_of(slow={"val_loss": [1.0], "ece": [math.nan]})
    found = json.loads(text.result(content.build(record, None)))
    assert found["arms"]["slow"][0]["metrics"]["ece"] == "nan"


def test_the_result_of_a_large_study_is_small_enough_to_be_committed(built, record):
    """20 arms with 3 seeds and 12 rungs, every metric measured."""
    metrics = {name: 1.23456789012345 * i for i, name in enumerate(record.arms[0].runs[0].metrics, start=1)}
    curve = tuple(evaluation(128 * rung, 1.23456789 * rung) for rung in range(1, 13))
    arms = tuple(
        Arm(name, tuple(run_of(name, seed, metrics, curve=curve) for seed in (1, 2, 3)))
        for name in (f"an arm with a name of usual length {i}" for i in range(20))
    )
    large = content.build(replace(record, arms=arms, baseline=arms[0].name), built.published)
    assert len(text.result(large).encode()) < 200_000


def test_csv_files_have_a_line_a_run_a_rung_and_a_record(built):
    files = {name: list(csv.DictReader(io.StringIO(body))) for name, body in text.csv_files(built).items()}
    assert [row["state"] for row in files["metrics.csv"]].count("diverged") == 1
    assert len(files["metrics.csv"]) == 9
    assert [float(row["val_loss"]) for row in files["metrics.csv"] if row["arm"] == "fast"] == [1.5, 1.6, 1.7]
    assert len(files["curves.csv"]) == 8 * 3 + 1
    assert len(files["diagnostics.csv"]) == 7
    assert json.loads(files["diagnostics.csv"][6]["reliability"])[0]["share"] == 1.0
    assert files["table-differences.csv"][0]["difference, mean ± sd"] == "-0.600 ± 0.100"
    assert len(files) == len(built.tables) + 3
