import os
import signal
import sqlite3
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from model.config.yaml_tree import parse_overrides
from model.errors import ConfigError
from service.__main__ import cli
from tests.conftest import ROOT
from tests.service.calls import done, in_process


def test_overrides_are_read_as_yaml():
    given = ("training.epochs=2", "optimizer.lr=1e-3", "data.path=a=b.txt", "data.source=file", "x.y=[1, 2]")
    assert parse_overrides(given) == {
        "training.epochs": 2,
        "optimizer.lr": 1e-3,
        "data.path": "a=b.txt",
        "data.source": "file",
        "x.y": [1, 2],
    }
    assert parse_overrides(()) == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("training.epochs",), "--set training.epochs: must be KEY=VALUE, such as --set training.epochs=2"),
        (("=2",), "--set =2: must be KEY=VALUE, such as --set training.epochs=2"),
        (("seed=1", "seed=2"), "--set seed: given twice"),
    ],
)
def test_an_override_that_is_none_is_refused(given, says):
    with pytest.raises(ConfigError) as caught:
        parse_overrides(given)
    assert str(caught.value) == says


def test_a_value_that_is_no_yaml_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        parse_overrides(("seed=[1",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_help_has_every_verb_with_a_whole_sentence(columns):
    said = CliRunner().invoke(cli, ["--help"], terminal_width=columns, max_content_width=columns).stdout
    assert max(map(len, said.splitlines())) <= columns
    words = " ".join(said.split())
    assert "..." not in words.partition("Commands:")[2]
    for name, command in cli.commands.items():
        assert f"{name} {command.get_short_help_str(limit=1000)}" in words


def test_a_study_that_is_given_as_an_option_is_told_where_it_stands():
    said = CliRunner().invoke(cli, ["report", "--study", "hn"], prog_name="python -m service")
    assert said.exit_code == 2
    assert "Error: The study stands without an option: python -m service report STUDY\n" in said.stderr


def test_the_version_names_what_a_fault_is_reported_with():
    said = CliRunner().invoke(cli, ["--version"])
    own, *others = said.stdout.splitlines()
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert own.startswith(f"hptune {stated}, commit ")
    assert f"optuna {version('optuna')}" in others
    assert f"torch {version('torch')}" in others


def test_a_users_mistake_is_one_line_and_status_2(tiny):
    result = done(tiny, "create", "nosuch")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: study 'nosuch' does not exist; there are: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_made_study_says_what_is_left_and_who_runs_it(tiny):
    first = in_process(tiny, "create", str(tiny.file), "--trials", "2")
    again = in_process(tiny, "create", str(tiny.file), "--trials", "2")
    line = "study tiny has 2 trials left; workers of this machine: .venv/bin/python -m service workers tiny\n"
    assert first.stdout.endswith(line)
    assert again.stdout == line
    tiny.worker().work()
    after = in_process(tiny, "create", str(tiny.file), "--trials", "2")
    assert after.stdout == "study tiny has 0 trials left\n"


def test_a_device_that_fails_is_one_line(tiny, monkeypatch):
    monkeypatch.setattr("service.settings.Settings.from_environment", Path("/proc/self/mem/x").read_text)
    result = in_process(tiny, "status", "tiny")
    assert (result.exit_code, result.stderr) == (2, "error: /proc/self/mem/x: Not a directory\n")


def test_what_would_command_a_terminal_is_escaped(tiny):
    result = in_process(tiny, "create", "x\x1b[2J\n\udcff/study.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: study ")
    assert result.stderr.isascii()
    assert "\x1b" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_threads_of_every_verb_give_way_to_other_programs(tiny, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    in_process(tiny, "status", "tiny")
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    in_process(tiny, "status", "tiny")
    assert os.environ["GOMP_SPINCOUNT"] == "7"


@pytest.mark.parametrize(
    "arguments", [("create", "{file}", "--trials", "+3"), ("run", "3", "--study", "{file}")]
)
def test_what_the_database_refuses_is_one_line(tiny, arguments):
    tiny.create(1)
    with sqlite3.connect(tiny.folder / "study.db") as database:
        database.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON hptune_slots BEGIN SELECT RAISE(ABORT, 'not allowed'); END"
        )
    database.close()
    result = in_process(tiny, *(argument.format(file=tiny.file) for argument in arguments))
    assert (result.exit_code, result.stderr) == (2, f"error: {tiny.settings.storage_shown}: not allowed\n")


def test_a_storage_that_is_away_has_a_status_of_its_own(tiny):
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/none"
    result = CliRunner(env=tiny.command()["env"] | {"HPTUNE_STORAGE_URL": url}).invoke(
        cli, ["status", "tiny"]
    )
    assert result.exit_code == os.EX_TEMPFAIL
    assert result.stderr.startswith("error: postgresql+psycopg://me:***@127.0.0.1:1/none: ")
    assert result.stderr.count("\n") == 1


def test_ctrl_c_while_the_program_is_loaded_shows_no_traceback():
    program = """
import os, runpy, signal, sys
class Interrupts:
    def find_spec(self, name, *_):
        if name == "service.verbs.running":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
runpy.run_module("service", run_name="__main__", alter_sys=True)
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


def test_ctrl_c_is_pythons_own_again_once_it_is_loaded():
    program = "import signal, service.__main__; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout == "True\n"
