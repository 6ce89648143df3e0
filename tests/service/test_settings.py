import dataclasses
import os
from pathlib import Path

import pytest

from model.errors import ConfigError, CorpusError
from service.settings import ROOT, Settings
from service.storage.corpus import load_corpus
from service.storage.database import creation_lock, open_storage
from service.storage.studies import load_study


def test_without_an_environment_everything_is_under_runs():
    settings = Settings.from_environment({})
    assert settings.url.database == str(ROOT / "runs" / "hptune.db")
    assert settings.artifacts == str(ROOT / "runs" / "artifacts")
    assert settings.cache == ROOT / "runs" / "cache"
    assert (settings.device, settings.lease_seconds) == ("auto", 60.0)


def test_an_empty_variable_is_as_good_as_none():
    names = ("STORAGE_URL", "ARTIFACTS", "CACHE", "DEVICE", "LEASE_SECONDS")
    assert Settings.from_environment({f"HPTUNE_{name}": "" for name in names}) == Settings.from_environment(
        {}
    )


def test_the_environment_is_taken():
    settings = Settings.from_environment(
        {
            "HPTUNE_STORAGE_URL": "sqlite:///other.db",
            "HPTUNE_ARTIFACTS": "a",
            "HPTUNE_CACHE": "c",
            "HPTUNE_DEVICE": "cpu",
            "HPTUNE_LEASE_SECONDS": "2.5",
        }
    )
    assert settings == Settings("sqlite:///other.db", "a", Path("c"), "cpu", 2.5)


@pytest.mark.parametrize("given", ["soon", "0", "0.5", "-3", "nan", "inf"])
def test_a_lease_that_cannot_be_kept_is_refused(given):
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment({"HPTUNE_LEASE_SECONDS": given})
    message = f"HPTUNE_LEASE_SECONDS: must be a number of seconds from 1, given {given!r}"
    assert str(caught.value) == message


def test_a_password_is_shown_nowhere():
    settings = Settings("postgresql+psycopg://me:s3cret@host/db", "a", Path("c"))
    assert settings.storage_shown == "postgresql+psycopg://me:***@host/db"
    broken = Settings("s3cret, not a URL", "a", Path("c"))
    with pytest.raises(ConfigError, match=r"^HPTUNE_STORAGE_URL: not a database URL; ") as caught:
        broken.url  # noqa: B018
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["per%20cent", "q?mark", "sp ace", "ümlaut", "{x}", "#", "a@b", "a&b=c;d+e"])
def test_the_default_storage_is_made_under_any_path(tmp_path, monkeypatch, name):
    monkeypatch.setattr("service.settings.HOME", tmp_path / name)
    storage = open_storage(Settings.from_environment({}), create=True)
    storage.engine.dispose()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "runs" / "hptune.db").is_file()


def test_a_path_that_no_url_can_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("service.settings.HOME", tmp_path / os.fsdecode(b"\xff"))
    with pytest.raises(
        ConfigError, match="no URL can name a path that is not UTF-8; HPTUNE_STORAGE_URL names"
    ):
        Settings.from_environment({})
    assert Settings.from_environment({"HPTUNE_STORAGE_URL": "sqlite:///x.db"}).storage_url == "sqlite:///x.db"


@pytest.mark.parametrize("given", ["0", "65", "two", "²", "9" * 5000])
def test_workers_a_gpu_that_are_no_small_number_are_refused(given):
    with pytest.raises(ConfigError, match="HPTUNE_WORKERS_PER_GPU: must be a whole number from 1 to 64"):
        Settings.from_environment({"HPTUNE_WORKERS_PER_GPU": given})


@pytest.mark.parametrize("under", ["/proc/nope", "file", "file/below"])
def test_a_cache_that_cannot_be_made_is_one_line(tmp_path, under):
    (tmp_path / "file").touch()
    settings = Settings("sqlite:///x.db", "a", tmp_path / under)
    for use in (settings.made_cache, creation_lock(settings).__enter__):
        with pytest.raises(CorpusError, match="HPTUNE_CACHE names another folder") as caught:
            use()
        assert str(caught.value).startswith(f"{tmp_path / under}: cannot be written: ")


def test_a_corpus_is_not_fetched_to_a_cache_that_cannot_be_made(finished):
    study, _ = load_study(open_storage(finished.settings), "tiny", finished.settings)
    elsewhere = dataclasses.replace(finished.settings, cache=Path("/proc/nope"))
    with pytest.raises(
        CorpusError, match=r"^/proc/nope: cannot be written: No such file or directory; HPTUNE_CACHE"
    ):
        load_corpus(study, elsewhere)


def test_the_storages_password_may_come_from_a_file(tmp_path):
    file = tmp_path / "secret"
    file.write_text("pä:ss/w0rd@%\n")
    name = "HPTUNE_STORAGE_PASSWORD_FILE"
    environment = {"HPTUNE_STORAGE_URL": "postgresql+psycopg://hptune@db/hptune", name: str(file)}
    settings = Settings.from_environment(environment)
    assert settings.url.password == "pä:ss/w0rd@%"
    assert settings.storage_shown == "postgresql+psycopg://hptune:***@db/hptune"
    own = environment | {"HPTUNE_STORAGE_URL": "postgresql+psycopg://hptune:own@db/hptune"}
    assert Settings.from_environment(own).url.password == "own"
    assert Settings.from_environment({name: str(file)}) == Settings.from_environment({})  # SQLite has none
    with pytest.raises(ConfigError, match=r"^HPTUNE_STORAGE_URL: a SQLite .*: unset HPTUNE_STORAGE_URL$"):
        Settings.from_environment({name: str(file), "HPTUNE_STORAGE_URL": "sqlite:///mine.db"})
    for content, says in ((b"\n", "is empty"), (b"\xff", "not text in UTF-8")):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"^{name}: .*{says}"):
            Settings.from_environment(environment)
    file.unlink()
    with pytest.raises(ConfigError, match=f"^{name}: .* cannot be read: No such file"):
        Settings.from_environment(environment)


def test_logs_are_for_people_or_for_machines():
    assert not Settings.from_environment({}).json_log
    assert not Settings.from_environment({"HPTUNE_LOG": "text"}).json_log
    assert Settings.from_environment({"HPTUNE_LOG": "json"}).json_log
    with pytest.raises(ConfigError, match=r"^HPTUNE_LOG: given 'yaml', allowed: text, json$"):
        Settings.from_environment({"HPTUNE_LOG": "yaml"})
