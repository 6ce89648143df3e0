import json
import sqlite3

from click.testing import CliRunner

from service.__main__ import cli
from service.held_out import best
from service.storage.database import open_storage
from service.storage.studies import load_study


def reads(finished):
    study = load_study(open_storage(finished.settings), "tiny", finished.settings)[0]
    return study.user_attrs.get(best.READS, [])


def verb(finished, folder):
    environment = {
        key: value for key, value in finished.command()["env"].items() if key.startswith("HPTUNE_")
    }
    return CliRunner().invoke(cli, ["evaluate", "--study", "tiny", "--out", str(folder)], env=environment)


def test_a_reading_counts_when_its_result_is_written(finished, tmp_path):
    before = reads(finished)
    result = verb(finished, tmp_path)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert reads(finished)[:-1] == before
    assert reads(finished)[-1]["trials"] == [score["trial"] for score in record["checkpoints"]]
    assert record["held_out_reads"] == len(before) + 1
    times = "once" if not before else f"{len(before) + 1} times"
    assert f"the held-out split of this study has now been read {times}" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "evaluation.md"]


def test_a_result_that_cannot_be_written_is_not_shown_and_does_not_count(finished, tmp_path):
    before = reads(finished)
    (tmp_path / "file").write_text("")
    result = verb(finished, tmp_path / "file" / "reports")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert reads(finished) == before


def test_a_result_whose_reading_cannot_be_recorded_leaves_no_file(finished, tmp_path):
    with sqlite3.connect(finished.folder / "study.db") as database:
        for event in (
            "UPDATE",
            "INSERT",
        ):  # Optuna takes no notice of a constraint, so an error of another kind
            table = "study_user_attributes BEGIN INSERT INTO nosuch VALUES (1); END"
            database.execute(f"CREATE TRIGGER refuse_{event} BEFORE {event} ON {table}")
    try:
        result = verb(finished, tmp_path)
    finally:
        with database:
            database.execute("DROP TRIGGER refuse_UPDATE")
            database.execute("DROP TRIGGER refuse_INSERT")
        database.close()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
