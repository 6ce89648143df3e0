import subprocess

from tests.service.calls import in_process


def test_status_shows_the_best(finished):
    shown = in_process(finished, "status", "tiny").stdout
    assert "study tiny: 3 complete" in shown
    best = min(trial.value for trial in finished.trials())
    assert f"{best:.4f}" in shown


def test_a_terminal_of_another_encoding_costs_no_result(finished):
    call = finished.command("status", "tiny")
    call["env"] |= {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = subprocess.run(**call, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "study tiny: 3 complete" in result.stdout


def test_a_storage_that_is_not_there_is_said_to_be_missing(tiny):
    result = in_process(tiny, "status", "tiny")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: sqlite:///")
    assert result.stderr.endswith("there is no storage yet; ./hptune.sh makes one\n")
