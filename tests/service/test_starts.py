"""Where and how the scripts are started: real processes, from a checkout of their own."""

import os
import shutil
import subprocess
import sys

import pytest

from service.verbs.running import run
from tests.clones import call, checkout
from tests.conftest import ROOT, tiny_study

NOSUCH = "error: study 'nosuch' does not exist; there are: quickstart\n"


def test_the_script_is_found_through_links_and_with_cdpath(tmp_path, hostile):
    root = checkout(tmp_path / "per%20cent q?mark ümlaut {x}")
    (hostile / "link.sh").symlink_to(os.path.relpath(root / "hptune.sh", hostile))
    (hostile / "folder").symlink_to(root)
    starts = {"link.sh": hostile, "folder/hptune.sh": hostile, f"{root.name}/hptune.sh": tmp_path}
    for script, cwd in starts.items():
        done = call("bash", script, "--study", "nosuch", cwd=cwd, CDPATH=".")
        assert (done.returncode, done.stdout, done.stderr) == (2, "", NOSUCH), script


@pytest.mark.slow
def test_a_study_is_run_from_a_folder_with_modules_of_our_names(tmp_path, hostile):
    root = checkout(tmp_path / "per%20cent q?mark {x}")
    tiny = tiny_study(tmp_path)
    tiny.write("design:\n  list: [{arm: A}]\nbaseline: false\n")
    done = call(root / "hptune.sh", "--study", tiny.file, "--workers", "1", cwd=hostile, HPTUNE_DEVICE="cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "study tiny: 1 complete" in done.stdout
    assert done.stdout.count("best trials, val_loss in nats per character") == 1
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["artifacts", "cache", "hptune.db"]


def test_the_evaluator_finds_its_environment_from_any_folder(tmp_path, hostile):
    root = checkout(
        tmp_path / "sp ace"
    )  # whose Python is a wrapper, which must not be looked for again and again
    (hostile / "evaluate").symlink_to(root / "evaluate.py")
    for environment in ({}, {"PYTHONSAFEPATH": "1"}):
        done = call("python3", "evaluate", "--help", cwd=hostile, **environment)
        assert (done.returncode, done.stderr) == (0, "")
    (root / ".venv" / "bin" / "python").write_text("")
    done = call("python3", "evaluate", "--help", cwd=hostile)
    assert done.stderr.endswith(
        "/.venv/bin/python: cannot be run: Exec format error; ./hptune.sh sets up the environment\n"
    )


def test_a_current_folder_that_has_been_removed(tmp_path):
    script = (
        'mkdir gone && cd gone && rmdir ../gone && exec "$0" -P -m service create quickstart --scale nosuch'
    )
    done = call("bash", "-c", script, sys.executable, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 2
    assert done.stderr.endswith("study.yaml: scale 'nosuch' does not exist; there are: none\n")


@pytest.fixture
def read_only() -> tuple[str, ...]:
    """The beginning of a command that sees the folder of its first argument read-only."""
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    for way in (("--mount",), ("--user", "--map-root-user", "--mount")):
        probe = subprocess.run(["unshare", *way, "sh", "-c", script, "/usr", "true"], capture_output=True)
        if probe.returncode == 0:
            return ("unshare", *way, "sh", "-c", script)
    pytest.skip("this machine lets no process mount a folder read-only for itself")


def test_a_checkout_that_is_read_only_says_what_to_set(tmp_path, read_only):
    root = checkout(tmp_path / "checkout")
    run = ("bash", root / "hptune.sh", "--study", "quickstart")
    done = call(*run, cwd=tmp_path, before=(*read_only, str(root)))
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {root}/runs/cache: cannot be written: Read-only file system; HPTUNE_CACHE names another folder for "
        "what can be made again\n"
    )
    done = call(*run, cwd=tmp_path, before=(*read_only, str(root)), HPTUNE_CACHE=str(tmp_path / "cache"))
    assert done.stderr == (
        f"error: sqlite:///{root}/runs/hptune.db: the storage cannot be opened: Read-only file system; "
        "HPTUNE_STORAGE_URL names another one\n"
    )
    (root / ".venv" / ".installed").unlink()
    done = call(*run, cwd=tmp_path, before=(*read_only, str(root)))
    assert done.stderr == f"error: {root}: the environment .venv cannot be made there: not writable\n"


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker client is not installed")
@pytest.mark.parametrize(
    ("file", "shell", "study"),
    [
        ("", {}, "hn"),
        ('HPTUNE_STUDY="quickstart"', {}, "quickstart"),
        ("HPTUNE_STUDY='quickstart' # the small one", {}, "quickstart"),
        ("# HPTUNE_STUDY=no\nexport HPTUNE_STUDY=quickstart\r\n", {}, "quickstart"),
        ("S=quick\nHPTUNE_STUDY=${S}start", {}, "quickstart"),
        ("HPTUNE_STUDY = quickstart", {}, "quickstart"),
        ("HPTUNE_STUDY=quickstart", {"HPTUNE_STUDY": "ladder"}, "ladder"),
    ],
)
def test_dotenv_is_read_as_compose_reads_it(tmp_path, file, shell, study):
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    (tmp_path / ".env").write_text(file)
    asked = call(tmp_path / "docker" / "setting.sh", "HPTUNE_STUDY", "hn", cwd=tmp_path, **shell)
    if "compose" in asked.stderr:
        pytest.skip("the docker client has no Compose v2")
    assert (asked.stdout, asked.stderr) == (f"{study}\n", "")


def test_help_is_whole_on_a_fresh_clone_and_installs_nothing(tmp_path):
    script = shutil.copy(ROOT / "hptune.sh", tmp_path)
    for words in (("--help",), ("6", "--docker", "-h")):
        done = call(script, *words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        for option in (
            option for parameter in run.params for option in parameter.opts if option.startswith("--")
        ):
            assert option in done.stdout
        assert "--docker" in done.stdout
        assert "--prepare" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["hptune.sh"]


PIP = """\
Collecting boto3==1.44.5 (from -r requirements.lock (line 2))
  Downloading boto3-1.44.5-py3-none-any.whl (140 kB)
Processing /wheels/my torch-2.13.0+cpu-cp311.whl (from -r requirements.lock (line 3))
Collecting pyarrow==21.0.0
  Downloading https://files/pyarrow-21.0.0-cp311.whl (55.0 MB)
{more}Installing collected packages: boto3, torch, pyarrow
"""


def fresh(root, packages, pip):
    """A clone whose environment's Python does as pip does; the script."""
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{pip}\n")
    python.chmod(0o755)
    (root / "requirements.lock").write_text("a==1\n" * packages)
    (root / "requirements-dev.lock").touch()
    return shutil.copy(ROOT / "hptune.sh", root)


def test_an_installation_says_how_far_it_has_come_and_what_is_large(tmp_path):
    root = tmp_path / "ä place"
    more = "Requirement already satisfied: x\n" * 17
    script = fresh(root, 10, f"cat <<'END'\n{PIP.format(more=more)}END")
    done = call(script, "--prepare", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "installing requirements.lock (some minutes, once)",
        "  3 of 10: fetching pyarrow, 55.0 MB",
        "  10 of 10 packages",
        "  20 packages",
        "  unpacking 20 packages, a minute or more",
        f"the environment {root / '.venv'} is ready",
    ]
    assert call(script, "--prepare", cwd=tmp_path).stdout.splitlines() == done.stdout.splitlines()[-1:]


def test_an_installation_that_fails_says_why_in_pips_words(tmp_path):
    script = fresh(tmp_path, 1, "echo 'ERROR: No matching distribution found for a==1'; exit 1")
    done = call(script, "--prepare", cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        [
            "ERROR: No matching distribution found for a==1",
            "error: the dependencies could not be installed; the lines above say why, "
            f"{tmp_path}/.venv/install.log has all",
        ],
    )
