"""What is printed into a closed pipe, a full disk, a closed descriptor or a strange encoding."""

import os
import subprocess
import sys

import pytest

from service.storage.database import open_storage
from service.storage.ownership import key_of
from service.storage.roster import Roster
from service.storage.studies import load_study
from tests.conftest import ROOT

PRINT = "from service import output; output.protect(); import sys, click\n"
MUCH = "for i in range(20_000): print('a line of output', i); click.echo('more')\nprint('done', file=sys.stderr)\n"
DONE = "done\n"


def run(script, **streams):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": streams.pop("encoding", "")}
    command = [sys.executable, "-c", PRINT + script]
    return subprocess.Popen(command, env=environment, text=True, **streams)


def test_a_reader_that_goes_ends_nothing():
    with run(MUCH, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == DONE
    assert process.returncode == 0


def test_a_full_disk_is_told_of_once_where_there_is_another_stream():
    with open("/dev/full", "w") as full, run(MUCH, stdout=full, stderr=subprocess.PIPE) as process:
        told, *rest = process.stderr.readlines()
    assert "standard output cannot be written (No space left on device)" in told
    assert (rest, process.returncode) == ([DONE], 0)


def test_both_streams_may_fail():
    with open("/dev/full", "w") as full, run(MUCH, stdout=full, stderr=full) as process:
        assert process.wait(timeout=60) == 0


def test_a_log_goes_on_when_its_disk_has_room_again(tmp_path):
    script = (
        "import resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "print('first')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))\n"
        "for _ in range(1000): print('x' * 100)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "print('last')\n"
    )
    with (tmp_path / "log").open("w") as log, run(script, stdout=log, stderr=subprocess.DEVNULL) as process:
        assert process.wait(timeout=60) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "first"
    assert lines[-1].endswith("last")  # behind what of a line still had room


def test_a_descriptor_that_is_closed_gets_no_file_of_the_program(tmp_path):
    script = (
        f"file = open({str(tmp_path / 'data')!r}, 'w'); print('lost'); file.write('kept'); file.close()\n"
    )
    with run(script, preexec_fn=lambda: (os.close(1), os.close(2))) as process:
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "data").read_text() == "kept"


def test_what_an_encoding_lacks_is_escaped():
    with run("print('1–2', '\\udcff')", stdout=subprocess.PIPE, encoding="ascii") as process:
        assert process.communicate()[0] == "1\\u20132 \\udcff\n"
    assert process.returncode == 0


def test_a_pipe_that_does_not_block_gets_every_line():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading) as reader, run(MUCH, stdout=writing, stderr=subprocess.DEVNULL) as process:
        os.close(writing)
        lines = reader.read().splitlines()
    assert process.returncode == 0
    assert len(lines) == 40_000


@pytest.mark.parametrize("close", [True, False], ids=["closed", "full"])
def test_evaluate_ends_well_whatever_becomes_of_its_output(finished, tmp_path, close):
    command = finished.command("evaluate", "--study", "tiny", "--out", str(tmp_path / "reports"))
    reading, writing = os.pipe() if close else (None, os.open("/dev/full", os.O_WRONLY))
    if reading is not None:
        os.close(reading)
    done = subprocess.run(**command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == [
        "evaluation.json",
        "evaluation.md",
    ]


def test_status_says_by_its_own_status_that_it_was_not_read(finished):
    with open("/dev/full", "w") as full:
        done = subprocess.run(**finished.command("status", "tiny"), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_watching_ends_with_its_reader(tiny):
    tiny.create(1)
    command = tiny.command("status", "tiny", "--watch")
    with subprocess.Popen(**command, stdout=subprocess.PIPE) as watcher:
        try:
            watcher.stdout.readline()
            watcher.stdout.close()
            storage = open_storage(tiny.settings)  # something to tell: a worker
            study = load_study(storage, "tiny", tiny.settings)[0]
            Roster(storage.engine, key_of(study), lease_seconds=60).register("test", device="cpu")
            storage.engine.dispose()
            assert watcher.wait(timeout=60) == 1
        finally:
            watcher.kill()
