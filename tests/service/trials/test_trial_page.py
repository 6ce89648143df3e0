"""What a trial leaves in the dashboard."""

import json
import subprocess
import xml.etree.ElementTree as ElementTree

import yaml
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState

from model.training import TrainingRun
from service.storage.artifact_stores import open_store
from tests.service.dashboard.test_notes import as_shown, loaded, note_of, texts


def files_of(study, number):
    """The trial's artifacts by name."""
    found, _ = loaded(study)
    store = open_store(study.settings.artifacts)
    files = {}
    for meta in get_all_artifact_meta(found.trials[number], storage=found._storage):
        if store.has(meta.artifact_id):
            with store.open_reader(meta.artifact_id) as file:
                files[meta.filename] = file.read()
    return files


def test_every_complete_trial_has_a_note_and_a_curve(finished):
    for trial in finished.trials():
        note = note_of(finished, trial.number)
        cells = texts(note, "td")
        rows = dict(zip(cells[::2], cells[1::2], strict=True))
        assert rows["ended"] == "complete"
        assert rows["val_loss"] == f"{trial.value:.4f} nats/char"
        assert rows["val_loss_official"].endswith("% of the tokens")
        assert rows["device"].startswith("CPU, 1 thread, ")
        resident = int(rows["memory"].removeprefix("at most ").split()[0].replace(",", ""))
        assert 100 < resident < 20_000  # MiB: torch alone takes more than the one
        assert yaml.safe_load(texts(note, "code")[-1]) == trial.user_attrs["config"]
        image = ElementTree.fromstring(files_of(finished, trial.number)["curve.svg"])
        assert len(list(image.iter("{http://www.w3.org/2000/svg}circle"))) == 3


def test_twelve_titles_stand_in_the_note_of_a_trial_that_keeps_its_weights(finished):
    for number in (0, 1):  # two checkpoints are kept: those of the first two trials were kept at first
        assert len(texts(note_of(finished, number), "li")) == 12


def test_a_trial_that_ended_otherwise_says_why(tiny):
    tiny.write(
        """\
design:
  list:
    - {optimizer.name: sgd, optimizer.lr: 1.0e+6, optimizer.clip_norm: null}
baseline: false
"""
    )
    tiny.create(1)
    tiny.worker().work()
    (trial,) = tiny.trials()
    assert trial.state == TrialState.PRUNED
    assert texts(note_of(tiny, 0), "td")[:2] == ["ended", as_shown(trial.user_attrs["ended"])]
    assert trial.user_attrs["ended"].startswith("diverged: ")


def test_a_pruned_trial_has_the_curve_it_came_to(tiny):
    tiny.write(
        """\
space:
  optimizer.lr: {type: float, low: 1.0e-2, high: 1.0e-1}
pruner: {name: threshold, upper: 0.5}
baseline: false
"""
    )
    tiny.create(1)
    tiny.worker().work()
    assert texts(note_of(tiny, 0), "td")[1] == "pruned at rung 1 of 3"
    assert b"<circle" in files_of(tiny, 0)["curve.svg"]


def test_out_of_memory_before_the_first_rung_has_a_note(tiny, monkeypatch):
    import torch

    tiny.create(1)
    monkeypatch.setattr(TrainingRun, "_train_step", lambda run: torch.empty(10**15))
    tiny.worker().work()
    cells = texts(note_of(tiny, 0), "td")
    assert cells[0] == "ended"
    assert cells[1].startswith("out of memory: ")
    assert "curve.svg" not in files_of(tiny, 0)


def test_a_store_that_takes_nothing_costs_the_files_and_not_the_note(tiny, finished):
    tiny.create(1)
    worker = tiny.worker()
    folder = tiny.folder / "artifacts"
    folder.rename(tiny.folder / "moved")
    folder.write_text("")  # a file in the folder's place
    worker.work()
    (trial,) = tiny.trials()
    assert trial.state == TrialState.COMPLETE
    assert trial.value == finished.trials()[0].value
    assert texts(note_of(tiny, 0), "td")[:2] == ["ended", "complete"]


def test_a_trial_carries_the_log_of_its_attempt(tiny):
    tiny.create(2)
    done = subprocess.run(
        **tiny.command("work", "tiny", "--threads", "1", "--json"), capture_output=True, check=True
    )
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    for number in range(2):
        kept = [json.loads(line) for line in files_of(tiny, number)["log.jsonl"].decode().splitlines()]
        assert [line["event"] for line in kept][:4] == ["trial started", "rung", "rung", "rung"]
        assert {(line["study"], line["trial"]) for line in kept} == {("tiny", number)}
        assert all(line in printed for line in kept)
