"""Files that appear whole or not at all, whoever else writes them at the same moment."""

import contextlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from model.errors import CorpusError

STALE_SECONDS = 86_400.0
"""Age of a file on its way from which on nobody is writing it any more."""
_ON_ITS_WAY = re.compile(r"\..*\.[0-9a-f]{32}\.tmp", re.DOTALL)


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


@contextlib.contextmanager
def scratch(where: Path | None = None) -> Iterator[Path]:
    """A folder for files on their way, gone afterwards: in `where`, which is made, or in that for temporary files."""
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
    suffix = f".{uuid.uuid4().hex}.tmp"
    with tempfile.TemporaryDirectory(prefix=".hptune", suffix=suffix, dir=where) as name:
        yield Path(name)


def sweep(where: Path | None = None) -> None:
    """Remove what killed processes have left there of files on their way, a day later. Never an error."""
    with contextlib.suppress(OSError):  # gettempdir's, too, where no folder can be written
        for entry in [
            entry for entry in os.scandir(where or tempfile.gettempdir()) if _ON_ITS_WAY.fullmatch(entry.name)
        ]:
            with contextlib.suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime < STALE_SECONDS:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry)
                else:
                    Path(entry).unlink()


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


def check_writable(folder: Path) -> None:
    """See that files can be written to `folder`, before long work whose result shall go there; nothing is left behind.

    Raises:
        OSError: they cannot.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        write_atomically(folder / f".probe-{uuid.uuid4().hex}", b"")
    finally:
        for file in folder.glob(".probe-*"):
            file.unlink(missing_ok=True)
        for path in missing:
            with contextlib.suppress(OSError):  # never made, or in use by now
                path.rmdir()
