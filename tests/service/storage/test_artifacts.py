import contextlib
import io
import json
import resource
import wsgiref.util
from collections.abc import Iterator
from pathlib import Path

import optuna
import optuna_dashboard
import pytest
from optuna.trial import TrialState

from model.errors import CheckpointError
from service.storage import artifacts
from service.storage.artifact_stores import FolderStore, open_store


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


def test_a_full_disk_leaves_the_former_content_and_nothing_else(store):
    store.write("kept", io.BytesIO(b"before"))
    for name in ("new", "kept"):
        with pytest.raises(OSError, match="File too large"), full_disk():
            store.write(name, io.BytesIO(b"x" * 100_000))
    assert [path.name for path in store.folder.iterdir()] == ["kept"]
    assert (store.folder / "kept").read_bytes() == b"before"


def listed_artifacts(study: optuna.Study) -> list[set[tuple[str, str]]]:
    """File name and id of what the dashboard shows on the page of each trial."""
    app = optuna_dashboard.wsgi(study._storage)
    environ = {"PATH_INFO": f"/api/studies/{study._study_id}"}
    wsgiref.util.setup_testing_defaults(environ)
    body = b"".join(app(environ, lambda *_: None))
    return [
        {(entry["filename"], entry["artifact_id"]) for entry in trial["artifacts"]}
        for trial in json.loads(body)["trials"]
    ]


@pytest.fixture
def study_of_five(finished, store):
    """Trials with a checkpoint each, best first, but for the last, which failed; and one that runs."""
    best = min(finished.trials(), key=lambda trial: trial.value)
    checkpoint = artifacts.read_checkpoint(open_store(finished.settings.artifacts), best)
    study = optuna.create_study()
    for number in range(6):
        trial = study.ask()
        artifacts.attach_checkpoint(store, trial, checkpoint.write)
        if number < 4:
            study.tell(trial, number)
        elif number == 4:
            study.tell(trial, state=TrialState.FAIL)
    return study


def test_keep_best_removes_the_weights_of_the_rest_and_what_the_dashboard_says_of_them(study_of_five, store):
    there = {path.name for path in store.folder.iterdir()}
    assert {identifier for trial in listed_artifacts(study_of_five) for _, identifier in trial} == there
    for _ in range(2):  # the second time they are gone already
        artifacts.keep_best(store, study_of_five, 2)
    trials = study_of_five.get_trials()
    assert [artifacts.has_weights(store, trial) for trial in trials] == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]
    there = {path.name for path in store.folder.iterdir()}
    listed = listed_artifacts(study_of_five)
    assert {identifier for trial in listed for _, identifier in trial} == there
    without = ["checkpoint.json", "tokenizer.json"]
    whole = ["checkpoint.json", "model.safetensors", "tokenizer.json"]
    names = [sorted(name for name, _ in trial) for trial in listed]
    assert names == [whole, whole, without, without, without, whole]


def test_weights_that_cannot_be_removed_stay_listed_and_go_the_next_time(study_of_five, store):
    weights = study_of_five.trials[3].user_attrs[artifacts.CHECKPOINT]["model.safetensors"]
    path = store.folder / weights
    path.unlink()
    path.mkdir()  # root removes whatever else is in the way
    artifacts.keep_best(store, study_of_five, 2)
    assert ("model.safetensors", weights) in listed_artifacts(study_of_five)[3]
    path.rmdir()
    artifacts.keep_best(store, study_of_five, 2)
    assert [
        number
        for number, trial in enumerate(listed_artifacts(study_of_five))
        if "model.safetensors" in dict(trial)
    ] == [0, 1, 5]


def test_what_cannot_be_stored_is_not_listed(study_of_five, store):
    trial = study_of_five.ask()
    with pytest.raises(OSError, match="File too large"), full_disk():
        artifacts.attach_text(store, trial, "long.txt", "x" * 100_000)
    assert listed_artifacts(study_of_five)[trial.number] == set()


def test_a_checkpoint_comes_back_whole(finished):
    best = min(finished.trials(), key=lambda trial: trial.value)
    checkpoint = artifacts.read_checkpoint(open_store(finished.settings.artifacts), best)
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
    lines = (Path(finished.settings.artifacts) / found["curve.jsonl"]).read_text().splitlines()
    curve = {entry["rung_tokens"]: entry["val_loss"] for entry in map(json.loads, lines)}
    assert curve == trial.intermediate_values


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("model.safetensors", Path.unlink, "the checkpoint cannot be read"),
        ("model.safetensors", damage_truncate, "model.safetensors: truncated"),
        ("checkpoint.json", damage_truncate, "missing or damaged"),
        ("checkpoint.json", lambda path: path.write_text("{}"), "not a checkpoint of this project"),
        ("tokenizer.json", damage_truncate, "tokenizer"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(finished, tmp_path, file, damage, says):
    source = open_store(finished.settings.artifacts)
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
