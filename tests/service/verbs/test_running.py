import shlex
import signal
import subprocess

import pytest
from optuna.trial import TrialState

from tests.service.calls import done, in_process


def test_create_and_status(tiny):
    result = in_process(tiny, "create", str(tiny.file), "--trials", "3", "--set", "model.dropout=0.2")
    assert result.exit_code == 0, result.output
    shown = in_process(tiny, "status", "tiny")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == ["study tiny: no trials", "0 of 3 trials finished, 0 workers alive"]


@pytest.mark.slow
def test_without_a_number_a_study_is_run_to_its_end(tiny):
    tiny.write(
        "design:\n  list: [{arm: A}, {arm: B, optimizer.lr: 2.0e-3}]\n"
        "baseline: false\nscales:\n  half: {set: {training.tokens: 4000}}\n"
    )
    call = ("run", "--study", str(tiny.file), "--scale", "half", "--workers", "1")
    result = done(tiny, *call)
    assert result.returncode == 0, result.stderr
    assert "study tiny-half: 2 complete" in result.stdout
    again = done(tiny, *call)
    assert "study tiny-half: all 2 configurations of its design have run" in again.stdout


@pytest.mark.slow
def test_a_study_is_confirmed_by_worker_processes(tiny, tmp_path):
    tiny.create(2)
    tiny.worker().work()
    call = ("confirm", "tiny", "--top", "1", "--seeds", "2", "--workers", "2", "--out", str(tmp_path))
    result = done(tiny, *call)
    assert result.returncode == 0, result.stderr
    for title in ("re-runs", "paired differences", "winner's curse"):
        assert title in result.stdout
    assert f"written: {tmp_path / 'confirmation.md'}" in result.stdout
    again = done(tiny, *call)
    assert "study tiny-confirm: all 4 configurations of its design have run" in again.stdout
    assert result.stdout.endswith(again.stdout.partition("\n")[2])  # the same verdict


def test_one_seed_is_too_few_to_confirm(tiny):
    result = in_process(tiny, "confirm", "tiny", "--seeds", "1")
    assert result.exit_code == 2
    assert "'--seeds': 1 is not in the range 2<=x<=20" in result.stderr


def test_a_scale_that_is_not_there_is_answered_with_those_that_are(tiny):
    result = in_process(tiny, "create", str(tiny.file), "--scale", "cpu")
    assert result.exit_code == 2
    assert result.stderr.endswith("study.yaml: scale 'cpu' does not exist; there are: none\n")


def test_a_file_that_is_only_read_without_its_source_is_refused(tiny):
    tiny.write(source="docstrings")
    result = in_process(tiny, "create", str(tiny.file), "--set", "data.path=titles.txt")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: command line: data.path: has no effect in any trial of this study; it is read with data.source=file\n"
    )


@pytest.mark.slow
def test_an_interrupted_call_says_what_finishes_the_rest_of_its_number(tiny):
    tiny.write(**{"training.tokens": 20_000})
    call = ("run", "3", "--study", str(tiny.file), "--workers", "1")
    with subprocess.Popen(**tiny.command(*call), stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if line.startswith("trial 1 started"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read().splitlines()
    assert process.returncode == 130
    assert "stopped: every trial's state is saved" in rest
    told, again = rest[-1].split("; to finish them: ./hptune.sh ")
    left = 3 - [trial.state for trial in tiny.trials()].count(TrialState.COMPLETE)
    assert told == f"{left} trials are left"
    assert again == f"{left} --study {shlex.quote(str(tiny.file))} --workers 1"
    finished = done(tiny, "run", *shlex.split(again))
    assert finished.returncode == 0, finished.stderr
    states = [trial.state for trial in tiny.trials()]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.FAIL)) == (3, 1)
    assert tiny.slots() == {"open": 0, "leased": 0, "held": 0, "closed": 3}
