"""What is not proven to be this project's stays as it is: other studies of the database, and ids that come again."""

import contextlib
import json
import shutil
import sqlite3
import threading
from dataclasses import replace

import optuna
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from optuna.trial import TrialState
from optuna_dashboard import get_note, save_note

from service.__main__ import cli
from service.confirmation import confirm
from service.dashboard.notes import study_note
from service.report.page.files import published_file
from service.report.record.study_record import read
from service.settings import ROOT
from service.storage import optuna_tables
from service.storage.artifact_stores import open_store
from service.storage.claims import Claims, LeaseLost
from service.storage.database import open_storage
from service.storage.optuna_tables import insert_study
from service.storage.ownership import generation_of, key_of
from service.storage.roster import Roster
from service.storage.schema import GENERATION
from service.storage.slots import Slots
from service.storage.studies import COMMAND, CORPUS, DEFINITION, StudyError, load_study
from service.study import definition as study_config
from tests.conftest import tiny_study
from tests.service.dashboard.test_serve import request, served

OWN_TABLES = ("hptune_slots", "hptune_workers")


def optuna_study(tiny, name, *, trials=5):
    """A study as somebody makes it who knows nothing of this project."""
    study = optuna.create_study(storage=tiny.settings.storage_url, study_name=name)
    for _ in range(trials):
        study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 1.0)
    return study


def content(tiny):
    """Every row of Optuna's tables."""
    with contextlib.closing(sqlite3.connect(tiny.folder / "study.db")) as connection:
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            table: connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in sorted(set(tables) - set(OWN_TABLES))
        }


def change(tiny, statement, *values):
    with contextlib.closing(sqlite3.connect(tiny.folder / "study.db")) as connection, connection:
        connection.execute(statement, values)


@contextlib.contextmanager
def loaded(tiny, name="tiny"):
    storage = open_storage(tiny.settings)
    try:
        yield storage, *load_study(storage, name, tiny.settings)
    finally:
        storage.engine.dispose()


def invoke(tiny, *arguments):
    environment = {key: value for key, value in tiny.command()["env"].items() if key.startswith("HPTUNE_")}
    return CliRunner().invoke(cli, list(map(str, arguments)), env=environment)


def says_what_it_is(message, name):
    return message == (
        f"study {name!r} was made by Optuna itself, not by hptune, and has no definition to work by; its trials are "
        f"untouched; give yours another name: --name {name}-2"
    )


@pytest.mark.parametrize("trials", [5, 0])
def test_create_leaves_a_study_of_optunas_whole(tiny, trials):
    optuna_study(tiny, "tiny", trials=trials)
    before = content(tiny)
    with pytest.raises(StudyError) as caught:
        tiny.create(1)
    assert says_what_it_is(str(caught.value), "tiny")
    assert content(tiny) == before
    tiny.create(1, name="tiny-2")  # the way out
    assert {row[1] for row in content(tiny)["studies"]} == {"tiny", "tiny-2"}


def test_confirm_leaves_a_study_of_optunas_whole(finished):
    optuna_study(finished, "tiny-confirm")
    try:
        before = content(finished)
        with pytest.raises(StudyError) as caught:
            confirm.prepare(finished.settings, "tiny", top=1, seeds=2, say=print)
        assert says_what_it_is(str(caught.value), "tiny-confirm")
        assert content(finished) == before
    finally:
        optuna.delete_study(study_name="tiny-confirm", storage=finished.settings.storage_url)


VERBS = {
    "create": lambda tiny: (tiny.file, "--name", "foreign"),
    "run": lambda tiny: ("1", "--study", tiny.file, "--name", "foreign"),
    "work": lambda _: ("foreign",),
    "workers": lambda _: ("foreign",),
    "status": lambda _: ("foreign",),
    "confirm": lambda _: ("foreign",),
    "evaluate": lambda _: ("--study", "foreign"),
    "report": lambda _: ("foreign",),
    "estimate": lambda _: ("foreign",),
}


@pytest.fixture(scope="module")
def beside_a_foreign_one(tmp_path_factory):
    tiny = tiny_study(tmp_path_factory.mktemp("foreign"))
    tiny.create(1)
    study = optuna_study(tiny, "foreign")
    save_note(study, "mine")
    return tiny


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_in_one_line_what_a_study_of_optunas_is(beside_a_foreign_one, verb):
    before = content(beside_a_foreign_one)
    done = invoke(beside_a_foreign_one, verb, *VERBS[verb](beside_a_foreign_one))
    assert done.exit_code == 2, done.output
    assert says_what_it_is(done.output.strip().removeprefix("error: "), "foreign")
    assert content(beside_a_foreign_one) == before


def test_a_study_that_is_not_there_is_not_looked_for_among_those_of_optuna(beside_a_foreign_one):
    done = invoke(beside_a_foreign_one, "status", "nosuch")
    assert done.output.endswith("there are: tiny; made by Optuna itself: foreign\n")


def test_the_dashboard_changes_no_note_of_a_study_of_optunas(beside_a_foreign_one):
    foreign = optuna.load_study(study_name="foreign", storage=beside_a_foreign_one.settings.storage_url)
    own = optuna.load_study(study_name="tiny", storage=beside_a_foreign_one.settings.storage_url)
    trial = foreign.trials[0]._trial_id
    with served(beside_a_foreign_one) as port:

        def put(study, path, version):
            body = json.dumps({"body": "theirs", "version": version})
            address = f"/api/studies/{study._study_id}{path}/note"
            return request(port, address, method="PUT", body=body, Content_Type="application/json")

        for path, version in (("", 2), (f"/{trial}", 1)):
            status, _, answer = put(foreign, path, version)
            assert status == 403
            assert says_what_it_is(json.loads(answer)["reason"], "foreign")
        assert put(own, "", 2)[0] == 204
    assert get_note(foreign) == "mine"
    assert get_note(own) == "theirs"


def test_a_study_is_made_whole_or_not_at_all(tiny):
    """Its maker is stopped before every statement of the making, as a kill would stop it."""
    tiny.create(1, name="first")
    before = content(tiny)
    with loaded(tiny, "first") as (storage, study, _):
        statements, stop_at = 0, 0

        def count(*_):
            nonlocal statements
            statements += 1
            if statements > stop_at:
                raise KeyboardInterrupt

        sa.event.listen(storage.engine, "before_cursor_execute", count)
        while True:
            try:
                insert_study(
                    storage.engine, "x", user_attributes=study.user_attrs, system_attributes={"a": 1, "b": 2}
                )
                break
            except KeyboardInterrupt:
                assert content(tiny) == before
                statements = 0
                stop_at += 1
        sa.event.remove(storage.engine, "before_cursor_execute", count)
    assert stop_at >= 2 + len(study.user_attrs) + 2  # the study, its direction, and all its attributes


def test_a_study_made_at_once_is_what_optuna_makes_step_by_step(tiny):
    tiny.create(1)
    with loaded(tiny) as (storage, study, definition):
        other = optuna.create_study(storage=tiny.settings.storage_url, study_name="by hand")
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            other.set_metric_names(["val_loss [nats/char]"])
        for key in (GENERATION, "question", CORPUS, COMMAND, DEFINITION):
            other.set_user_attr(key, study.user_attrs[key])
        save_note(other, study_note(definition, study.user_attrs[CORPUS], command=study.user_attrs[COMMAND]))
        assert study.user_attrs == other.user_attrs
        system_attributes = storage.get_study_system_attrs
        assert system_attributes(study._study_id) == system_attributes(other._study_id)
        assert study.directions == other.directions
        assert study.trials == []


def test_who_comes_second_with_a_name_leaves_the_study_of_the_first_whole(tiny):
    """Two checkouts with caches of their own have no lock in common."""
    tiny.create(1, name="other")
    barrier, refused = threading.Barrier(2), []
    insert = optuna_tables.insert_study

    def at_once(*arguments, **named):
        barrier.wait(60)
        insert(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.storage.studies.insert_study", at_once)
        patch.setattr("service.machine.create.creation_lock", lambda _: contextlib.nullcontext())

        def make():
            try:
                tiny.create(1)
            except StudyError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=make) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert refused == ["study 'tiny' has just been made by another process; the same command resumes it"]
    tiny.create(None, total=1)
    assert tiny.slots()["open"] == 1


BROKEN = {
    "text": "no definition",
    "empty": {},
    "no base": {"name": "tiny", "study": {}},
    "an empty study": {"name": "tiny", "study": {}, "base": {}, "overrides": {}},
    "lists": {"name": "tiny", "study": [], "base": [], "overrides": {}},
    "numbers": {"name": 1, "study": 2, "base": 3, "overrides": 4},
    "another scale": "scale",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_definition_that_cannot_be_read_is_one_line(tiny, broken):
    tiny.create(1)
    study = optuna.load_study(study_name="tiny", storage=tiny.settings.storage_url)
    stored = (
        {**study.user_attrs[DEFINITION], "scale": "gone"} if broken == "another scale" else BROKEN[broken]
    )
    study.set_user_attr(DEFINITION, stored)
    for verb in ("create", "status", "work"):
        done = invoke(tiny, verb, tiny.file if verb == "create" else "tiny")
        assert done.exit_code == 2, done.output
        assert done.output.count("\n") == 1
        assert done.output.startswith("error: study 'tiny'")
        assert done.output.endswith("its trials are untouched; give yours another name: --name tiny-2\n")


@pytest.mark.parametrize("facts", [None, [], {}, {"fingerprint": 1}, "corpus"])
def test_a_corpus_that_cannot_be_read_is_one_line(tiny, facts):
    tiny.create(1)
    study = optuna.load_study(study_name="tiny", storage=tiny.settings.storage_url)
    study.set_user_attr(CORPUS, facts)
    done = invoke(tiny, "status", "tiny")
    assert done.exit_code == 2
    assert done.output.startswith("error: study 'tiny': what it was made from cannot be read (")


def delete(tiny, name="tiny"):
    optuna.delete_study(study_name=name, storage=tiny.settings.storage_url)


def test_slots_and_workers_die_with_their_study(tiny):
    """SQLite gives the id of a deleted study to the next one."""
    tiny.create(4)
    with loaded(tiny) as (storage, study, _):
        before = key_of(study)
        claims = Claims(Slots(storage.engine, before), owner="a", lease_seconds=60)
        roster = Roster(storage.engine, before, lease_seconds=60)
        numbers = [roster.register(owner, device="CPU") for owner in "ab"]
        assert numbers == [0, 1]
        held = claims.claim()
        claims.set_trial(held, 7, attempts=0)
        delete(tiny)
        assert not any(claims.slots.counts().values())
        assert roster.alive() == []
        tiny.create(2)
        with loaded(tiny) as (_, again, _):
            now = key_of(again)
            assert now.study_id == before.study_id
            assert now.generation != before.generation
        assert tiny.slots() == {"open": 2, "leased": 0, "held": 0, "closed": 0}
        with pytest.raises(LeaseLost):
            claims.close(held)
        assert claims.claim() is None
        assert tiny.slots()["open"] == 2
        assert Roster(storage.engine, now, lease_seconds=60).register("c", device="CPU") == 0


def test_a_worker_does_nothing_to_a_study_that_has_got_the_id_of_its_own(tiny):
    tiny.create(2)
    worker = tiny.worker()
    delete(tiny)
    study = optuna_study(tiny, "somebody else's", trials=1)
    running = study.ask()
    study.enqueue_trial({"x": 0.5})
    before = content(tiny)
    worker.work()
    assert content(tiny) == before
    assert [trial.state for trial in study.trials] == [
        TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING,
    ]  # fmt: skip
    study.tell(running, 1.0)


def test_a_copy_of_a_study_has_slots_of_its_own(tiny):
    tiny.create(3)
    tiny.create(2, name="gone")
    delete(tiny, "gone")
    url = tiny.settings.storage_url
    optuna.copy_study(
        from_study_name="tiny", from_storage=url, to_storage=url, to_study_name="copy"
    )  # at the id of the one that is gone
    with loaded(tiny, "copy") as (storage, study, definition):
        assert definition.name == "copy"
        slots = Slots(storage.engine, key_of(study))
        assert not any(slots.counts().values())
    tiny.create(None, total=4, name="copy")
    with loaded(tiny, "copy") as (storage, study, _):
        slots = Slots(storage.engine, key_of(study))
        assert slots.counts()["open"] == 4
    assert tiny.slots()["open"] == 3


def test_slots_put_there_by_hand_are_none(tiny):
    tiny.create(1)
    with loaded(tiny) as (_, study, _):
        study_id, generation = study._study_id, generation_of(study)
    row = "INSERT INTO hptune_slots (study_id, slot, state, attempts, generation) VALUES (?, ?, 'open', 0, ?)"
    change(tiny, row, study_id, -1, generation)
    change(tiny, row, study_id, 9, None)
    assert tiny.slots()["open"] == 1
    tiny.worker().work()
    assert [trial.state for trial in tiny.trials()] == [TrialState.COMPLETE]


def test_a_slot_beyond_a_design_makes_no_trial(tiny):
    tiny.write("design:\n  list:\n    - {optimizer.lr: 2.0e-3}\nbaseline: false\n")
    tiny.create()
    with loaded(tiny) as (_, study, _):
        row = "INSERT INTO hptune_slots (study_id, slot, state, attempts, generation) VALUES (?, 9, 'open', 0, ?)"
        change(tiny, row, study._study_id, generation_of(study))
    tiny.worker().work()
    assert len(tiny.trials()) == 1


@pytest.fixture
def copied(finished, tmp_path):
    """The finished study in a database of the test's own."""
    shutil.copy(finished.folder / "study.db", tmp_path / "study.db")
    settings = replace(finished.settings, storage_url=f"sqlite:///{tmp_path / 'study.db'}")
    shutil.copytree(finished.folder / "tiny", tmp_path / "tiny")
    return replace(finished, folder=tmp_path, settings=settings)


def test_a_confirmation_is_of_the_search_it_was_made_from_alone(copied):
    """Another search under the same name has other trials under the same numbers."""
    confirm.prepare(copied.settings, "tiny", top=1, seeds=2, say=print)
    with loaded(copied) as (_, study, _):
        others = study.get_trials()
    delete(copied)
    copied.create(3)
    with loaded(copied) as (_, study, _):
        study.add_trials(others)
    with pytest.raises(
        StudyError, match=r"^study 'tiny-confirm' confirms an earlier study 'tiny', which is gone;"
    ):
        confirm.prepare(copied.settings, "tiny", top=1, seeds=2, say=print)


def test_a_database_of_somebody_elses_stays_as_it_is(tiny):
    path = tiny.folder / "study.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    before = path.read_bytes()
    assert invoke(tiny, "status", "tiny").exit_code == 2
    assert path.read_bytes() == before


def as_before_generations(tiny):
    """The database in the layout of the first versions: no generations, and trials without marks."""
    for table in OWN_TABLES:
        change(tiny, f"ALTER TABLE {table} DROP COLUMN generation")
    change(tiny, "DELETE FROM study_user_attributes WHERE key = 'generation'")
    change(tiny, "DELETE FROM trial_user_attributes WHERE key = 'slot'")
    with contextlib.closing(sqlite3.connect(tiny.folder / "study.db")) as connection, connection:
        query = "SELECT value_json FROM study_user_attributes WHERE key = 'definition'"
        definition = json.loads(connection.execute(query).fetchone()[0])
        del definition["file"]
        update = "UPDATE study_user_attributes SET value_json = ? WHERE key = 'definition'"
        connection.execute(update, (json.dumps(definition),))


def losses(tiny):
    return [trial.values for trial in tiny.trials()]


@pytest.mark.parametrize("verb", ["status", "create", "report", "work"])
def test_a_database_in_the_old_layout_opens_with_all_it_holds(copied, verb):
    before = losses(copied)
    copied.create(1)
    as_before_generations(copied)
    arguments = {
        "create": (copied.file, "--trials", "5"),
        "report": ("tiny", "--out", copied.folder / "report"),
    }
    done = invoke(copied, verb, *arguments.get(verb, ("tiny",)))
    assert done.exit_code == 0, done.output
    assert losses(copied)[:3] == before
    assert copied.slots()["closed"] == (4 if verb == "work" else 3)
    assert copied.slots()["open"] == {"create": 2, "work": 0}.get(verb, 1)
    with loaded(copied) as (_, study, definition):  # whether or not a trial has been marked since
        found = read(study, definition, open_store(copied.settings.artifacts))
        assert found.baseline == "trial 0: baseline"


def test_of_an_old_database_only_what_is_left_of_a_deleted_study_goes(tiny):
    tiny.create(3)
    tiny.create(2, name="gone")
    as_before_generations(tiny)
    delete(tiny, "gone")
    tiny.create(4, name="new")  # at its id
    with loaded(tiny, "new") as (storage, study, _):
        slots = Slots(storage.engine, key_of(study))
        assert slots.counts()["open"] == 4
    assert tiny.slots()["open"] == 3


def test_published_claims_belong_to_the_file_that_a_study_was_made_from(tiny):
    published = ROOT / "studies" / "ladder" / "published.yaml"
    tiny.create(1, name="ladder")  # another file's, under that name
    with loaded(tiny, "ladder") as (_, study, definition):
        assert published_file(study, definition) is None
        ladder = study_config.load("ladder")
        assert published_file(study, ladder) == published
        assert published_file(study, study_config.load("ladder", scale="cpu")) == published
        stored = study_config.StudyDefinition.from_snapshot(ladder.snapshot() | {"name": "x"})
        assert published_file(study, stored) == published
    (tiny.file.parent / "published.yaml").touch()
    with loaded(tiny, "ladder") as (_, study, definition):
        assert published_file(study, definition) == tiny.file.parent / "published.yaml"


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("./hptune.sh 5 --study ladder --scale cpu --name x", True),
        ("./hptune.sh --study studies/ladder --name x", True),
        ("./hptune.sh --study quickstart --name ladder", False),
        ("", False),
    ],
)
def test_of_an_older_study_the_command_says_what_it_was_made_from(tiny, command, found):
    tiny.create(1, name="ladder")
    as_before_generations(tiny)
    with loaded(tiny, "ladder") as (_, study, definition):
        study.set_user_attr(COMMAND, command)
        assert definition.file is None
        path = ROOT / "studies" / "ladder" / "published.yaml"
        assert published_file(study, definition) == (path if found else None)
