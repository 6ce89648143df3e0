"""The examples of training code of one's own, as people run them: real processes, a kill, a confirmation, a report."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from optuna.trial import TrialState

from service.storage.configurations import configuration_of
from service.storage.opened_study import open_study
from service.study.base_file import code_folders
from service.trials.own_run import OwnTraining
from tests.conftest import ROOT, TinyStudy, tiny_study

BESIDE = ROOT / ".venv-transformers/bin/python"


@pytest.fixture
def place(tmp_path) -> TinyStudy:
    """Where studies are kept; its own is not used."""
    return tiny_study(tmp_path)


def done(place: TinyStudy, *words: str) -> str:
    """The output of a verb that ends well."""
    call = subprocess.run(**place.command(*words), capture_output=True, check=False, cwd=place.folder)
    assert call.returncode == 0, call.stdout + call.stderr
    return call.stdout


def working(place: TinyStudy, study: str) -> "subprocess.Popen[str]":
    command = place.command("work", study, "--threads", "1", "--json")
    return subprocess.Popen(**command, stdout=subprocess.PIPE, cwd=place.folder)


def killed_at_a_rung(place: TinyStudy, study: str) -> int:
    """A worker is killed once it has saved a trial at a rung; the trial's number."""
    with working(place, study) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            event = json.loads(line)
            if event["event"] == "rung" and event["rung"] < event["rungs"]:
                worker.send_signal(signal.SIGKILL)
                return int(event["trial"])
    raise AssertionError("the worker has ended without a rung")


@pytest.mark.slow
def test_digits_from_the_search_to_the_report(place):
    done(place, "create", str(ROOT / "studies/digits/study.yaml"), "--trials", "4")
    killed = killed_at_a_rung(place, "digits")
    workers = [working(place, "digits") for _ in range(2)]
    for worker in workers:
        worker.communicate()
        assert worker.returncode == 0
    opened = open_study(place.settings, "digits")
    trials = opened.study.get_trials()
    assert opened.slots.counts() == {"open": 0, "leased": 0, "held": 0, "closed": 4}
    resumed = [trial for trial in trials if trial.user_attrs.get("goes_on_with") == killed]
    assert len(resumed) == 1
    own = opened.definition.own_run
    training = OwnTraining(own, code_folders(opened.definition.file), "cpu")
    for trial in trials:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            run = training.begin(configuration_of(opened.study, opened.definition, trial))
            undisturbed = {each.rung_tokens: each.val_loss for each in run}
            assert trial.intermediate_values.items() <= undisturbed.items()
    opened.close()
    said = done(
        place, "confirm", "digits", "--top", "1", "--seeds", "2", "--workers", "2", "--out", "confirmed"
    )
    assert "re-runs, error rate ± sd over seeds" in said
    assert "nats" not in said + (place.folder / "confirmed/confirmation.md").read_text()
    assert "error rate" in done(place, "status", "digits")
    for study in ("digits", "digits-confirm"):
        done(place, "report", study, "--out", f"report-{study}")
        page = (place.folder / f"report-{study}/report.md").read_text()
        assert "error rate" in page
        assert "20 epochs" in page
        assert not {"nats", "characters", "held-out", "val_loss,"} & set(page.replace("\n", " ").split(" "))
    done(place, "export", "digits", "--format", "checkpoint", "--out", "best")
    assert [file.name for file in (place.folder / "best").iterdir()] == ["state.pt"]


@pytest.mark.slow
def test_what_is_of_the_gpt_alone_says_so(place):
    done(place, "create", str(ROOT / "studies/digits/study.yaml"), "--trials", "1")
    done(place, "workers", "digits", "--workers", "1")
    for words in (
        ("evaluate", "--study", "digits"),
        ("train", "digits"),
        ("generate", "digits"),
        ("estimate", "digits"),
        ("export", "digits", "--format", "hf"),
    ):
        call = subprocess.run(**place.command(*words), capture_output=True, check=False, cwd=place.folder)
        assert call.returncode == 2, words
        assert call.stderr.startswith("error: study 'digits' trains train:Run: ")
        assert call.stderr.endswith(" applies to the built-in GPT alone\n")


@pytest.mark.integration
def test_a_trainer_of_transformers_keeps_the_contract_and_is_searched(place):
    needed = (
        subprocess.run([BESIDE, "-c", "import transformers, accelerate"], capture_output=True, check=False)
        if BESIDE.exists()
        else None
    )
    if needed is None or needed.returncode:
        pytest.skip(f"{BESIDE} is not there, or lacks accelerate: make transformers")

    def beside(*words: str) -> "subprocess.CompletedProcess[str]":
        command = place.command(*words)
        command["args"] = [str(BESIDE), *command["args"][1:]]
        return subprocess.run(**command, capture_output=True, check=False, cwd=place.folder)

    tiny = ("--set", "width=32", "--set", "layers=1", "--set", "block=32")
    base = str(ROOT / "studies/trainer/config.yaml")
    checked = beside(
        "check-run",
        "train:Run",
        "--base",
        base,
        "--metric",
        "bits per byte",
        "--budget",
        "8",
        "--rungs",
        "2",
        *tiny,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert [line[:2] for line in checked.stdout.splitlines()] == ["ok"] * 5
    file = Path(place.folder / "trainer" / "study.yaml")
    file.parent.mkdir()
    for name in ("train.py", "config.yaml"):
        (file.parent / name).write_text((ROOT / "studies/trainer" / name).read_text())
    text = (ROOT / "studies/trainer/study.yaml").read_text()
    file.write_text(text.replace("amount: 200", "amount: 10").replace("rungs: 5", "rungs: 2"))
    for words in (
        ("create", str(file), "--trials", "2", "--set", "layers=1"),
        ("work", "trainer", "--threads", "1"),
    ):
        call = beside(*words)
        assert call.returncode == 0, call.stderr
    trials = place_trials(place, "trainer")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert all(2 < trial.value < 8.1 for trial in trials)  # bits per byte: 8 is no knowledge at all


def place_trials(place: TinyStudy, study: str):
    opened = open_study(place.settings, study)
    try:
        return opened.study.get_trials()
    finally:
        opened.close()
