import pytest

from tests.service.calls import in_process


@pytest.mark.parametrize("verb", [("evaluate", "--study", "tiny"), ("report", "tiny"), ("confirm", "tiny")])
def test_a_folder_that_cannot_be_written_is_told_before_the_work(tiny, verb):
    result = in_process(tiny, *verb, "--out", "/proc/nope")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: /proc/nope: cannot be written: No such file or directory; --out names another folder\n"
    )


@pytest.mark.parametrize("given", ["0", "+0", "-3", "²", "100001", "9" * 5000])
def test_a_number_of_trials_that_cannot_be_is_refused(tiny, given):
    result = in_process(tiny, "create", str(tiny.file), f"--trials={given}")
    assert result.exit_code == 2
    assert result.stderr.endswith("allowed: N trials in all, or +N more, N from 1 to 100000\n")
