import contextlib
import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState

from model.errors import UserError
from service.storage import artifacts
from service.storage.artifact_stores import StoreError, open_store
from service.storage.database import open_storage


def moved(study, location: str):
    """The study with its artifacts elsewhere."""
    return dataclasses.replace(study, settings=dataclasses.replace(study.settings, artifacts=location))


def test_create_and_worker_refuse_a_store_that_is_not_there(tiny, gate):
    away = moved(tiny, "s3://not-there")
    (tiny.folder / "corpus.txt").rename(tiny.folder / "elsewhere")  # the store is asked first
    with pytest.raises(StoreError):
        away.create(1)
    (tiny.folder / "elsewhere").rename(tiny.folder / "corpus.txt")
    tiny.create(1)
    with pytest.raises(StoreError):
        away.worker()


@dataclass
class Breakable:
    """A study whose artifact store can be broken while a trial runs."""

    study: object
    damage: Callable[[], None]
    mend: Callable[[], None]
    reason: str
    missing: tuple[str, ...] = ("config.json", "curve.jsonl", "checkpoint")


ROOM_BYTES = 24_576
"""Enough for the small files of a trial of the tiny study, too little for its weights (34,928 bytes) or its state."""


@pytest.fixture
def volume(tmp_path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "volume"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def filled(tiny, volume) -> Breakable:
    def fill() -> None:
        with (volume / "filler").open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(b"x" * 4096):
                    pass
            file.truncate(file.tell() - ROOM_BYTES)

    study = moved(tiny, str(volume))
    return Breakable(study, fill, (volume / "filler").unlink, "No space left on device", ("checkpoint",))


@pytest.fixture
def read_only(tiny, volume) -> Breakable:
    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", volume], check=True)

    study = moved(tiny, str(volume))
    return Breakable(study, lambda: remount("ro"), lambda: remount("rw"), "Read-only file system")


@pytest.fixture
def refusing(tiny, bucket, gate) -> Breakable:
    study = moved(tiny, f"s3://{bucket}/tiny")
    return Breakable(study, lambda: gate.damage("500"), gate.mend, "We are sorry")


@pytest.fixture
def cutting(tiny, bucket, gate) -> Breakable:
    study = moved(tiny, f"s3://{bucket}/tiny")
    return Breakable(study, lambda: gate.damage("cut"), gate.mend, "onnection")


@pytest.fixture(params=["filled", "read_only", "refusing", "cutting"])
def breakable(request) -> Breakable:
    return request.getfixturevalue(request.param)


@pytest.mark.slow
def test_a_store_that_fails_costs_a_trial_its_files_and_not_its_loss(breakable, at_step, finished):
    breakable.study.create(1)
    at_step({30: breakable.damage})  # rungs after 24, 47 and 70 steps
    breakable.study.worker().work()
    (trial,) = breakable.study.trials()
    assert trial.state == TrialState.COMPLETE
    assert trial.value == finished.trials()[0].value
    missing, reason = trial.user_attrs["artifacts"].split(" not saved: ")
    assert missing == ", ".join(breakable.missing)
    assert breakable.reason in reason
    assert "checkpoint" not in trial.user_attrs

    breakable.mend()
    at_step({})
    breakable.study.create(1)
    breakable.study.worker().work()
    later = breakable.study.trials()[1]
    assert "artifacts" not in later.user_attrs
    store = open_store(breakable.study.settings.artifacts)
    assert artifacts.read_checkpoint(store, later).record["trial"] == 1


def test_a_checkpoint_that_does_not_fit_leaves_nothing_behind(filled, at_step):
    filled.study.create(1)
    at_step({30: filled.damage})
    filled.study.worker().work()
    (trial,) = filled.study.trials()
    storage = open_storage(filled.study.settings)
    listed = {meta.artifact_id for meta in get_all_artifact_meta(trial, storage=storage)}
    there = {path.name for path in Path(filled.study.settings.artifacts).iterdir()}
    assert {name for name in there if not name.startswith("corpus-")} - {"filler"} == listed


def test_a_state_saved_before_the_store_failed_is_gone_on_with(breakable, at_step, finished):
    breakable.study.create(1)
    worker = breakable.study.worker()
    at_step({30: breakable.damage, 50: worker.stop})
    with pytest.raises(UserError, match="interrupted; its state could not be saved"):
        worker.work()
    (trial,) = breakable.study.trials()
    assert (trial.state, len(trial.intermediate_values)) == (TrialState.FAIL, 2)

    breakable.mend()
    steps = at_step({})
    breakable.study.worker().work()
    successor = breakable.study.trials()[1]
    assert steps == list(range(25, 71))
    assert successor.value == finished.trials()[0].value


@pytest.mark.slow
def test_a_study_on_s3_keeps_the_weights_of_the_best_and_is_evaluated(tiny, bucket):
    study = moved(tiny, f"s3://{bucket}/tiny")
    with study.file.open("a") as file:
        file.write("keep_checkpoints: 2\n")
    study.create(4)
    study.worker().work()
    store = open_store(study.settings.artifacts)
    ranked = sorted(study.trials(), key=lambda trial: trial.value)
    assert [artifacts.has_weights(store, trial) for trial in ranked] == [True, True, False, False]
    listed = boto3.Session().client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    assert not [entry["Key"] for entry in listed if "state-" in entry["Key"]]

    for corpus in study.settings.cache.glob("corpus-*"):
        corpus.unlink()
    command = study.command("evaluate", "--study", "tiny", "--out", str(tiny.folder / "out"))
    done = subprocess.run(**command, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tiny.folder / "out" / "evaluation.json").exists()


@pytest.mark.slow
def test_evaluating_without_the_store_is_one_line(tiny, bucket, gate):
    study = moved(tiny, f"s3://{bucket}")
    study.create(1)
    study.worker().work()
    gate.damage("500")
    command = study.command("evaluate", "--study", "tiny")
    done = subprocess.run(**command, capture_output=True)
    assert done.returncode != 0
    assert done.stderr.startswith(f"error: s3://{bucket}: checkpoints cannot be read: ")
    assert done.stderr.count("\n") == 1
