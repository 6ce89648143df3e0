from pathlib import Path

import pytest

from model.data.files import check_writable, write_atomically, write_corpus_file
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
