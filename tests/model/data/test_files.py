import contextlib
import os
import time
from pathlib import Path

import pytest

from model.data.files import (
    STALE_SECONDS,
    check_writable,
    open_atomically,
    scratch,
    sweep,
    write_atomically,
    write_corpus_file,
)
from model.errors import CorpusError


def test_writes_into_missing_folders_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"first")
    with pytest.raises(TypeError):
        write_atomically(path, "text where bytes belong")  # fails after the temporary file was opened
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"file/inner: cannot be written: .+") as caught:
        write_corpus_file(tmp_path / "file" / "inner", b"")
    assert "\n" not in str(caught.value)


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    for folder in ("there", "new/folder"):
        check_writable(tmp_path / folder)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["there", "there/file"]


def test_a_folder_that_cannot_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nope")):
        with pytest.raises(OSError, match=r"directory|exists"):
            check_writable(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def killed(folder):
    """What a process leaves in a folder that is killed on its way to two files."""
    if not (child := os.fork()):
        with open_atomically(folder / "weights") as file, scratch(folder) as aside:
            file.write(b"half")
            (aside / "made").write_bytes(b"half")
            os._exit(1)
    os.waitpid(child, 0)
    return sorted(folder.iterdir())


def test_what_killed_processes_have_left_is_removed_a_day_later_and_nothing_else(tmp_path):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    left = killed(folder)
    assert len(left) == 2
    others = [folder / name for name in ("state-1", ".hidden", ".notes.tmp", f"weights.{'0' * 32}.tmp")]
    for path in others:
        path.touch()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    link = folder / f".link.{'0' * 32}.tmp"
    link.symlink_to(outside)
    sweep(folder)
    assert sorted(folder.iterdir()) == sorted([*left, *others, link])  # somebody may be at it
    yesterday = time.time() - STALE_SECONDS - 60
    for path in folder.iterdir():
        os.utime(path, (yesterday, yesterday), follow_symlinks=False)
    sweep(folder)
    assert sorted(folder.iterdir()) == sorted(others)
    assert (outside / "file").exists()
    sweep(tmp_path / "not there")


def test_a_machine_without_a_folder_for_temporary_files_has_nothing_to_remove(monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    sweep()


def test_a_scratch_folder_is_gone_afterwards_whatever_happened(tmp_path):
    where = tmp_path / "new"
    with contextlib.suppress(ZeroDivisionError), scratch(where) as folder:
        (folder / "file").write_bytes(b"x")
        assert folder.parent == where
        raise ZeroDivisionError
    assert list(where.iterdir()) == []
