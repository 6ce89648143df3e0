import contextlib
import io
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound

from model.errors import CheckpointError
from service import artifacts
from service.artifacts import FolderStore


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Every write beyond 1,000 bytes of a file fails in the kernel, after part of it has been written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "artifacts")


def trial_with_files(number: int, files: dict[str, str]) -> optuna.trial.FrozenTrial:
    trial = optuna.trial.create_trial(value=float(number), user_attrs={artifacts.CHECKPOINT: files})
    trial.number = number
    return trial


def test_what_is_written_is_read_and_removed(store):
    store.write("a-1.bin", io.BytesIO(b"content"))
    assert store.has("a-1.bin")
    with store.open_reader("a-1.bin") as file:
        assert file.read() == b"content"
    store.remove("a-1.bin")
    assert not store.has("a-1.bin")
    for act in (store.remove, store.open_reader):
        with pytest.raises(ArtifactNotFound):
            act("a-1.bin")


def test_a_full_disk_leaves_the_former_content_and_nothing_else(store):
    store.write("kept", io.BytesIO(b"before"))
    for name in ("new", "kept"):
        with pytest.raises(OSError, match="File too large"), full_disk():
            store.write(name, io.BytesIO(b"x" * 100_000))
    assert [path.name for path in store.folder.iterdir()] == ["kept"]
    assert (store.folder / "kept").read_bytes() == b"before"


@pytest.mark.parametrize(
    "hostile", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0b", "a b"]
)
def test_an_id_that_is_a_path_is_refused(store, hostile):
    for act in (store.open_reader, store.remove, store.has, lambda i: store.write(i, io.BytesIO(b"x"))):
        with pytest.raises(ArtifactNotFound, match="is not an artifact id"):
            act(hostile)
    assert not store.folder.exists()


def test_keep_best_removes_the_weights_of_the_rest_and_nothing_else(store):
    trials = []
    for number in range(4):
        files = {name: f"{number}-{name}" for name in ("model.safetensors", "checkpoint.json")}
        for identifier in files.values():
            store.write(identifier, io.BytesIO(b"x"))
        trials.append(trial_with_files(number, files))
    trials.append(trial_with_files(4, {}))
    for _ in range(2):  # the second time they are gone already
        artifacts.keep_best(store, trials, 2)
    there = sorted(path.name for path in store.folder.iterdir())
    assert there == sorted(
        [f"{n}-checkpoint.json" for n in range(4)] + ["0-model.safetensors", "1-model.safetensors"]
    )
    assert [artifacts.has_weights(store, trial) for trial in trials] == [True, True, False, False, False]


def test_a_checkpoint_comes_back_whole(finished):
    best = min(finished.trials(), key=lambda trial: trial.value)
    checkpoint = artifacts.read_checkpoint(FolderStore(finished.settings.artifacts), best)
    assert checkpoint.config.model_dump(mode="json") == best.user_attrs["config"]
    assert checkpoint.record["evaluation"]["val_loss"] == best.value
    assert checkpoint.record["trial"] == best.number
    count = sum(p.numel() for p in checkpoint.model().parameters())
    assert count == best.user_attrs["parameters"]


def test_the_curve_is_the_reported_values(finished):
    trial = finished.trials()[1]
    study = optuna.load_study(study_name="tiny", storage=finished.settings.storage_url)
    found = {
        meta.filename: meta.artifact_id
        for meta in optuna.artifacts.get_all_artifact_meta(trial, storage=study._storage)
    }
    assert {"config.json", "curve.jsonl"} <= set(found)
    lines = (finished.settings.artifacts / found["curve.jsonl"]).read_text().splitlines()
    curve = {entry["rung_tokens"]: entry["val_loss"] for entry in map(json.loads, lines)}
    assert curve == trial.intermediate_values


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("model.safetensors", Path.unlink, "the checkpoint is not complete"),
        ("model.safetensors", damage_truncate, "model.safetensors: truncated"),
        ("checkpoint.json", damage_truncate, "missing or damaged"),
        ("checkpoint.json", lambda path: path.write_text("{}"), "not a checkpoint of this project"),
        ("tokenizer.json", damage_truncate, "tokenizer"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(finished, tmp_path, file, damage, says):
    source = FolderStore(finished.settings.artifacts)
    best = min(finished.trials(), key=lambda trial: trial.value)
    store = FolderStore(tmp_path / "copy")
    for identifier in best.user_attrs[artifacts.CHECKPOINT].values():
        with source.open_reader(identifier) as content:
            store.write(identifier, content)
    damage(store.folder / best.user_attrs[artifacts.CHECKPOINT][file])
    with pytest.raises(CheckpointError, match=rf"^trial {best.number}: .*{says}") as caught:
        artifacts.read_checkpoint(store, best)
    assert "\n" not in str(caught.value)
    assert str(tmp_path.parent) not in str(caught.value).replace(str(store.folder), "")


def test_a_trial_without_a_checkpoint_says_so(store):
    with pytest.raises(CheckpointError, match=r"^trial 5 has no checkpoint$"):
        artifacts.read_checkpoint(store, trial_with_files(5, {}))
