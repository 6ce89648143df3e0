import csv
import io
import json
import math
from dataclasses import replace

from service.report.page import content, text
from service.report.record.study_record import Arm
from tests.service.report.conftest import evaluation, run_of


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
