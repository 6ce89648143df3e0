import pytest
from click.testing import CliRunner

from service.__main__ import cli
from tests.own_code import altered, write_own


def asked(*words: object):
    return CliRunner(env={"HPTUNE_DEVICE": "cpu"}).invoke(cli, ["check-run", *map(str, words)])


def test_what_cannot_be_checked_is_said_in_a_line(tmp_path):
    folder = write_own(tmp_path / "down").parent
    done = asked("falling:Walk", "--base", folder / "config.yaml")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: run: falling:Walk: ")
    assert done.stderr.rstrip().endswith("has no class Walk, it has: Run")
    done = asked("falling:Run", "--base", folder / "none.yaml")
    assert done.exit_code == 2
    assert "none.yaml: cannot be read" in done.stderr
    assert asked("falling:Run", "--base", folder / "config.yaml", "--rungs", 1).exit_code == 2


def test_a_module_that_fails_shows_its_own_traceback_above_the_line(tmp_path):
    folder = write_own(tmp_path / "down", source=f"1 / 0\n{altered('Run', 'Run')}").parent
    done = asked("falling:Run", "--base", folder / "config.yaml")
    assert done.exit_code == 2
    *above, line = done.stderr.strip().splitlines()
    assert (
        line
        == "error: run: falling:Run: cannot be imported: ZeroDivisionError: division by zero (falling.py:1)"
    )
    assert above[0] == "Traceback (most recent call last):"
    assert "falling.py" in above[1]


@pytest.mark.slow
def test_the_findings_are_lines_and_the_status_says_whether_all_hold(tmp_path):
    folder = write_own(tmp_path / "down").parent
    words = ("--base", folder / "config.yaml", "--metric", "height", "--rungs", 2, "--budget", 4)
    done = asked("falling:Run", *words)
    assert done.exit_code == 0
    assert [line[:4] for line in done.stdout.splitlines()] == ["ok  "] * 5
    write_own(tmp_path / "down", source=altered("self.random.random()", "1 / 0"))
    done = asked("falling:Run", *words)
    assert done.exit_code == 1
    assert done.stdout.startswith("no  a whole run: ZeroDivisionError: float division by zero (falling.py:")
    announced, above = done.stderr.split("\n", 1)
    assert announced == (
        "training it for 4 steps as a whole twice, then from each rung to the next, then stopped: "
        "5 processes, one after another"
    )
    assert above.startswith("Traceback")
