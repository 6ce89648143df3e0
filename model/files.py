"""Files that appear whole or not at all, whoever else writes them at the same moment."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from model.errors import CorpusError


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which becomes `path` when the block ends well. Missing folders are made.

    Raises:
        OSError: the disk is full or not writable; the former file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: two containers that share a volume can both be process 1.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Make `content` the file `path`, or leave what was there. Raises OSError as `open_atomically` does."""
    with open_atomically(path) as file:
        file.write(content)


def write_corpus_file(path: Path, content: bytes) -> None:
    """`write_atomically` for a corpus and its caches. Raises CorpusError where the file cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be written: {error.strerror}") from None
