import gzip
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.data.docstrings import LOCK_FILE, harvest, sentences_of_source
from model.errors import CorpusError

SMALL_PACKAGES = ("click", "idna", "tqdm")


@pytest.fixture
def lock_file(tmp_path):
    path = tmp_path / "requirements.lock"
    lines = [f"{name}=={importlib.metadata.version(name)}" for name in SMALL_PACKAGES]
    path.write_text("# pinned\n\n" + "\n".join(lines) + "  # a comment\n")
    return path


def test_takes_the_sentences_of_first_paragraphs_in_file_order():
    source = b'''
"""Reads the weather from a file. Writes it
    to another one!

The second paragraph is left out of it."""

class Forecast(Base):
    """A forecast for the next few days, see :class:`~weather.Base` for more."""

    async def rain(self):
        """Return True if ``rain`` is likely tomorrow."""

def short():
    """Too short."""

def parameters():
    """Return x_1 + y_2 * z_3 for a_4 and b_5."""

def listing():
    """Takes the following arguments and returns:"""

def french():
    """Renvoie les donn\xc3\xa9es de la journ\xc3\xa9e enti\xc3\xa8re."""
'''
    assert sentences_of_source(source) == [
        "Reads the weather from a file.",
        "Writes it to another one!",
        "A forecast for the next few days, see weather.Base for more.",
        "Return True if rain is likely tomorrow.",
    ]


@pytest.mark.parametrize(
    "source", [b'"""A docstring that is never closed at all.', b'"""a\x00b c d e"""', b""]
)
def test_source_that_does_not_parse_has_none(source):
    assert sentences_of_source(source) == []


def test_source_is_neither_run_nor_warned_about():
    source = b'"""Opens the door to the garden."""\nraise SystemExit\nx = "\\d" is 3\n'
    assert sentences_of_source(source) == ["Opens the door to the garden."]


def test_the_number_of_processes_changes_nothing(tmp_path, lock_file):
    one, packages = harvest(lock_file, cache=tmp_path / "one", processes=1)
    two, _ = harvest(lock_file, cache=tmp_path / "two", processes=2)
    assert one == two
    assert packages == len(SMALL_PACKAGES)
    assert len(one) > 100
    assert all(20 <= len(sentence) <= 200 and sentence.isascii() for sentence in one)


def test_workers_end_with_the_process_that_started_them(tmp_path):
    # idle workers, which would wait for work for ever, and the resource tracker beside them
    program = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from model.data import docstrings
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(2, mp_context=context, initializer=docstrings._end_with_parent)
    assert list(pool.map(abs, range(4))) == [0, 1, 2, 3]
    print(*pool._processes, flush=True)
    sys.stdin.read()
"""
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(LOCK_FILE.parent)}
    command = [sys.executable, str(tmp_path / "program.py")]
    parent = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    with parent:
        pids = list(map(int, parent.stdout.readline().split()))
        assert pids
        assert all(map(is_running, pids))
        parent.kill()
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_running, pids))


def test_ctrl_c_ends_the_workers_at_once_and_in_silence(tmp_path):
    program = f"""
import pathlib
from model.data import docstrings
if __name__ == "__main__":
    try:
        docstrings.harvest(docstrings.LOCK_FILE, cache=pathlib.Path({str(tmp_path)!r}), processes=2)
    except KeyboardInterrupt:
        print("interrupted")
"""
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(LOCK_FILE.parent)}
    command = [sys.executable, str(tmp_path / "program.py")]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **streams) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        deadline = time.monotonic() + 60
        while len(pids := children.read_text().split()) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)  # two workers and the resource tracker
        os.killpg(parent.pid, signal.SIGINT)  # as Ctrl-C reaches all of a terminal's
        assert parent.communicate(timeout=60) == ("interrupted\n", "")
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_running, pids))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_cache_is_used_and_a_damaged_one_made_again(tmp_path, lock_file):
    sentences, packages = harvest(lock_file, cache=tmp_path, processes=1)
    (cached,) = tmp_path.glob("docstrings-*.json.gz")
    content = cached.read_bytes()
    cached.write_bytes(gzip.compress(b'["From the cache."]'))
    assert harvest(lock_file, cache=tmp_path, processes=1) == (["From the cache."], packages)
    cached.write_bytes(content[:-20])
    assert harvest(lock_file, cache=tmp_path, processes=1) == (sentences, packages)
    assert cached.read_bytes() == content
    lock_file.write_text(lock_file.read_text() + "# other content\n")
    harvest(lock_file, cache=tmp_path, processes=1)
    assert len(list(tmp_path.glob("docstrings-*.json.gz"))) == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("no-such-package-here==1.0", "no-such-package-here 1.0 is not installed"),
        ("click==0.0.1", "click must be 0.0.1, installed is "),
        ("click>=8", r":\d: must be name==version, given 'click>=8'"),
    ],
)
def test_a_lock_file_that_is_not_what_is_installed_is_refused(tmp_path, lock_file, line, expected):
    lock_file.write_text(lock_file.read_text() + line)
    with pytest.raises(CorpusError, match=expected) as caught:
        harvest(lock_file, cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert str(lock_file) in str(caught.value)


def test_a_missing_lock_file_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"none\.lock: cannot be read"):
        harvest(tmp_path / "none.lock", cache=tmp_path)


def test_the_projects_own_lock_file_is_found():
    assert "torch==" in LOCK_FILE.read_text()
