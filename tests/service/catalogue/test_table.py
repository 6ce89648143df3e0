import csv
import io
import json

import pyarrow.parquet
import pytest

from model.errors import UserError
from service.catalogue import table
from tests.service.catalogue.asking import fill, invoke, opened, plain_study

RUNS = (({"optimizer.lr": 0.001}, 2.0), ({"optimizer.lr": 0.004}, 1.5), ({"optimizer.lr": 0.002}, None))


def as_cell(value):
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def test_rows_have_one_key_for_all_and_none_where_nothing_is_known(anywhere):
    anywhere.create(3)
    with opened(anywhere) as (_, study, definition):
        assert table.rows(study, definition) == []
    fill(anywhere, *RUNS)
    with opened(anywhere) as (_, study, definition):
        study.enqueue_trial({"optimizer.lr": 0.003})
        rows = table.rows(study, definition)
        whole = table.rows(study, definition, whole=True)
    assert len({tuple(row) for row in rows}) == 1
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    assert columns["state"] == ["complete", "complete", "pruned", "waiting"]
    assert columns["val_loss"] == [2.0, 1.5, None, None]
    assert columns["optimizer.lr"] == [0.001, 0.004, 0.002, None]
    assert columns["bits_per_byte"] == [2.0, 3.0, 4.0, None]
    assert columns["added"] == [False, False, False, True]
    assert "slot" not in columns
    assert (whole[0]["model.d_model"], whole[3]["model.d_model"]) == (16, None)


def test_the_three_formats_hold_the_same(tiny, tmp_path):
    tiny.create(3)
    fill(tiny, *RUNS)
    read = {
        "json": lambda path: json.loads(path.read_text()),
        "csv": lambda path: list(csv.DictReader(io.StringIO(path.read_text()))),
        "parquet": lambda path: pyarrow.parquet.read_table(path).to_pylist(),
    }
    found = {}
    for form, reader in read.items():
        done = invoke(tiny, "export", "tiny", "--format", form, "--out", tmp_path / "trials")
        assert done.stdout == f"written: {tmp_path / 'trials'} (3 trials)\n", done.output
        found[form] = reader(tmp_path / "trials")
    assert found["json"] == found["parquet"]
    for row, cells in zip(found["json"], found["csv"], strict=True):
        assert {
            key: "" if v is None else json.dumps(v) if isinstance(v, bool) else str(v)
            for key, v in row.items()
        } == cells
    shown = invoke(tiny, "export", "tiny", "--format", "csv", "--out", "-")
    assert shown.stdout.splitlines()[0].startswith("trial,state,val_loss,arm,seed,")


def test_a_column_of_several_kinds_is_text_in_parquet(tmp_path):
    rows = [{"a": 1, "b": [0.9, 0.95], "c": None}, {"a": "x", "b": None, "c": None}]
    table.write(rows, "parquet", tmp_path / "t")
    assert pyarrow.parquet.read_table(tmp_path / "t").to_pylist() == [
        {"a": "1", "b": [0.9, 0.95], "c": None},
        {"a": "x", "b": None, "c": None},
    ]


CASES_WHAT_CANNOT_ = [
    (("--format", "parquet", "--out", "-"), "--out -: parquet is no text, allowed: a file"),
    (
        ("--format", "csv", "--trial", "1"),
        "--trial: has no effect with --format csv, which has all trials",
    ),
    (("--format", "hf", "--whole"), "--whole: has no effect with --format hf"),
    (
        ("--format", "csv", "--out", "/proc/nope/x"),
        "/proc/nope/x: cannot be written: No such file or directory;",
    ),
]


def test_what_cannot_be_exported_is_told(tiny):
    tiny.create(1)
    for arguments, says in CASES_WHAT_CANNOT_:
        done = invoke(tiny, "export", "tiny", *arguments)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"error: {says}")


def test_a_foreign_study_is_said_to_be_one(tiny):
    tiny.create(1)
    plain_study(tiny, "foreign", (0.1, 1.0))
    done = invoke(tiny, "export", "foreign", "--format", "csv")
    assert done.stderr.startswith("error: study 'foreign' was made by Optuna itself, not by hptune")


def test_without_pyarrow_parquet_is_refused(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"^parquet needs pyarrow, which is not installed here; --format csv"):
        table.as_parquet([{"a": 1}])
