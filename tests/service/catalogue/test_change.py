from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna_dashboard import get_note, save_note

from service.confirmation.confirm import CONFIRMED
from service.storage.ownership import key_of
from service.storage.roster import Roster
from service.storage.studies import COMMAND, CONFIRMS
from tests.service.catalogue.asking import fill, invoke, opened, plain_study

pytestmark = pytest.mark.slow  # a study is made in each

RUNS = (({"optimizer.lr": 0.001}, 2.0), ({"optimizer.lr": 0.004}, 1.5))


def rows_left(storage, *, but=("alembic_version", "version_info")):
    """Rows of every table, the versions aside."""
    names = [name for name in sa.inspect(storage.engine).get_table_names() if name not in but]
    with storage.engine.connect() as connection:
        counts = {
            name: connection.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar() for name in names
        }
    return {name: count for name, count in counts.items() if count}


def test_a_renamed_study_keeps_all_it_has(anywhere):
    anywhere.create(3)
    fill(anywhere, *RUNS)
    done = invoke(anywhere, "rename", "tiny", "other")
    assert done.stdout.startswith("renamed: study tiny is other now"), done.output
    with opened(anywhere, "other") as (_, study, definition):
        assert (definition.name, len(study.trials)) == ("other", 2)
        assert study.user_attrs[COMMAND].endswith("--name other")
        assert "--name other" in get_note(study)
    assert "0 of 3 slots closed" in invoke(anywhere, "show", "other").stdout
    assert invoke(anywhere, "show", "tiny").exit_code == 2
    assert invoke(anywhere, "rename", "other", "tiny").exit_code == 0
    with opened(anywhere) as (_, study, _):
        assert study.user_attrs[COMMAND].endswith("--name tiny")


def test_a_note_that_a_person_has_written_stays(tiny):
    tiny.create(1)
    with opened(tiny) as (_, study, _):
        save_note(study, "Mine.")
    invoke(tiny, "rename", "tiny", "other")
    with opened(tiny, "other") as (_, study, _):
        assert get_note(study) == "Mine."


def test_a_confirmation_follows_its_search_and_the_other_way_round(tiny):
    tiny.create(1)
    fill(tiny, *RUNS)
    from service.confirmation import confirm

    confirm.prepare(tiny.settings, "tiny", top=1, seeds=2, say=print)
    with opened(tiny) as (_, study, _), opened(tiny, "tiny-confirm") as (_, confirmation, _):
        generation = confirmation.user_attrs["generation"]
        study.set_user_attr(CONFIRMED, {"study": "tiny-confirm", "generation": generation, "arm": "A"})
    invoke(tiny, "rename", "tiny", "other")
    invoke(tiny, "rename", "tiny-confirm", "proof")
    with opened(tiny, "other") as (_, study, _), opened(tiny, "proof") as (_, confirmation, _):
        assert study.user_attrs[CONFIRMED]["study"] == "proof"
        assert confirmation.user_attrs[CONFIRMS]["study"] == "other"
    done = invoke(tiny, "delete", "other")
    assert done.exit_code == 2
    assert "; proof, which confirms it, stays: would be deleted; --yes does it without asking" in done.stderr


def test_a_deleted_study_leaves_nothing_and_touches_nothing_else(anywhere):
    anywhere.create(1)
    plain_study(anywhere, "foreign", (0.1, 1.0))
    with opened(anywhere) as (storage, _, _):
        Roster(
            storage.engine, key_of(optuna.load_study(study_name="tiny", storage=storage)), lease_seconds=0
        ).register("w", device="cpu")
    anywhere.worker().work()
    fill(anywhere, *RUNS)
    artifacts = Path(anywhere.settings.artifacts)
    others = artifacts / "of-another-study"
    others.write_text("kept")
    assert len(list(artifacts.iterdir())) > 5
    done = invoke(anywhere, "delete", "tiny", "--yes")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("deleted: study tiny, 3 trials, ")
    assert list(artifacts.iterdir()) == [others]
    anywhere.create(1)
    with opened(anywhere) as (storage, study, _):
        assert study.trials == []
        assert len(optuna.load_study(study_name="foreign", storage=storage).trials) == 1
        optuna.delete_study(study_name="foreign", storage=storage)
        optuna.delete_study(study_name="tiny", storage=storage)
        with storage.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM hptune_slots"))
        assert rows_left(storage) == {}


def test_the_corpus_of_another_study_stays(tiny):
    tiny.create(1)
    tiny.create(1, name="second")
    invoke(tiny, "delete", "tiny", "--yes")
    assert [path.name.split("-")[0] for path in Path(tiny.settings.artifacts).iterdir()] == ["corpus"]
    invoke(tiny, "delete", "second", "--yes")
    assert list(Path(tiny.settings.artifacts).iterdir()) == []


CASES_WHAT_CANNOT_ = [
    (("rename", "tiny", "foreign"), "study 'foreign' is there already; its trials are untouched"),
    (("rename", "tiny", "../x"), "study '../x': a name has letters, digits"),
    (("rename", "foreign", "mine"), "study 'foreign' was made by Optuna itself"),
    (("rename", "nosuch", "mine"), "study 'nosuch' is not in "),
    (("delete", "foreign", "--yes"), "study 'foreign' was made by Optuna itself"),
    (("delete", "nosuch", "--yes"), "study 'nosuch' is not in "),
    (
        ("delete", "tiny"),
        "study tiny with 0 trials and 1 files: would be deleted; --yes does it without asking",
    ),
]


def test_what_cannot_be_is_told_and_changes_nothing(anywhere):
    anywhere.create(1)
    plain_study(anywhere, "foreign", (0.1, 1.0))
    for arguments, says in CASES_WHAT_CANNOT_:
        done = invoke(anywhere, *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {says}"), done.stderr
        with opened(anywhere) as (storage, _, _):
            assert sorted(study.study_name for study in storage.get_all_studies()) == ["foreign", "tiny"]


@pytest.mark.parametrize("arguments", [("rename", "tiny", "other"), ("delete", "tiny", "--yes")])
def test_a_study_at_work_is_left_alone(tiny, arguments):
    tiny.create(1)
    with opened(tiny) as (storage, study, _):
        Roster(storage.engine, key_of(study), lease_seconds=600).register("w", device="cpu")
    done = invoke(tiny, *arguments)
    assert done.stderr.startswith("error: study 'tiny': 1 worker is at work on it; stop them")
    assert invoke(tiny, "show", "tiny").exit_code == 0


def test_a_store_that_cannot_be_written_keeps_the_study(tiny, tmp_path, monkeypatch):
    tiny.create(1)
    fill(tiny, *RUNS)
    monkeypatch.setattr(
        Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system"))
    )
    done = invoke(tiny, "delete", "tiny", "--yes")
    assert done.exit_code == 2
    assert done.stderr.endswith("cannot be removed: Read-only file system; the study stays\n")
    assert len(tiny.trials()) == 2
