"""Sentences of English from the docstrings of installed packages: a corpus for a machine without a network.

The packages are those of `requirements.lock`, so one lock file gives one list of sentences wherever it is
installed. Sources are parsed and never imported.
"""

import ast
import contextlib
import gzip
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path

from model.data.files import write_corpus_file
from model.data.progress import Progress, Say, silent
from model.errors import CorpusError
from model.shipped import SHIPPED

LOCK_FILE = SHIPPED / "requirements.lock"
"""The project's own list of pinned packages."""

_EXTRACTION_VERSION = 1
"""To be raised with every change of what counts as a sentence, so that no cache outlives it."""

_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)\Z")
# Tests repeat what they test, and vendored copies repeat other packages.
_SKIPPED_FOLDERS = {"test", "tests", "testing", "vendor", "_vendor", "..", "__pycache__"}
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]][.!?]) (?=[A-Z])")
_ROLE = re.compile(r":[a-z:]+:`~?([^`<]*)`")
_PROSE = re.compile(r"[A-Z][A-Za-z0-9 ,.;:!?'\"()/-]*[A-Za-z0-9.!?)\"]\Z")
_WORD = re.compile(r"[A-Z]?[a-z]+(?:['/-][a-z]+)*\Z|[A-Z]+\Z")


def harvest(
    lock_file: Path = LOCK_FILE, *, cache: Path, processes: int | None = None, say: Say = silent
) -> tuple[list[str], int]:
    """The sentences of the pinned packages' docstrings, repetitions included, and the number of packages.

    The result is the same for every number of processes. It is kept under `cache`, under a name that follows
    from the content of the lock file.

    Args:
        lock_file: Lines `name==version`.
        cache: Folder for the result.
        processes: Processes that parse; None for one a processor, at most eight.
        say: Takes lines for the user where nothing is kept yet.

    Raises:
        CorpusError: the lock file is missing or has another kind of line, a package of it is not installed or
            is installed in another version, or the cache cannot be written.
    """
    try:
        content = lock_file.read_bytes()
    except OSError as error:
        raise CorpusError(
            f"{lock_file}: cannot be read: {error.strerror}; data.source docstrings needs it"
        ) from None
    requirements = _requirements(content.decode(errors="replace"), lock_file)
    # What parses, and how a docstring is cleaned, belongs to the Python version.
    key = hashlib.sha256(f"{_EXTRACTION_VERSION} {sys.version_info[:2]}\n".encode() + content).hexdigest()[
        :16
    ]
    cached = cache / f"docstrings-{key}.json.gz"
    sentences = _read_cache(cached)
    if sentences is None:
        files = list(
            chain.from_iterable(_source_files(*requirement, lock_file) for requirement in requirements)
        )
        sentences = _sentences_of_files(files, processes or min(8, os.cpu_count() or 1), say)
        write_corpus_file(cached, gzip.compress(json.dumps(sentences).encode(), mtime=0))
    return sentences, len(requirements)


def sentences_of_source(source: bytes) -> list[str]:
    """The sentences in the first paragraphs of a module's docstrings, in the order of the file.

    Source that does not parse has none.
    """
    if b'"""' not in source and b"'''" not in source:
        return []  # a fifth of all files, and parsing is what takes the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes are the business of those who wrote them
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    sentences: list[str] = []
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first_paragraph = (ast.get_docstring(node) or "").split("\n\n")[0]
            sentences += _prose(first_paragraph)
            pending += reversed(node.body)
    return sentences


def _prose(paragraph: str) -> list[str]:
    """Its sentences of 20 to 200 characters and at least four words, four fifths of them plain words."""
    kept = []
    text = _ROLE.sub(r"\1", " ".join(paragraph.split())).replace("`", "")
    for sentence in _SENTENCE_END.split(text):
        words = [word.strip(",.;:!?'\"()") for word in sentence.split()]
        plain = sum(_WORD.match(word) is not None for word in words)
        fits = 20 <= len(sentence) <= 200 and len(words) >= 4
        if fits and plain >= 0.8 * len(words) and _PROSE.match(sentence):
            kept.append(sentence)
    return kept


def _requirements(text: str, lock_file: Path) -> list[tuple[str, str]]:
    requirements = []
    for i, line in enumerate(text.splitlines()):
        line = line.partition("#")[0].strip()
        match = _REQUIREMENT.match(line)
        if match:
            requirements.append((match[1], match[2]))
        elif line:
            raise CorpusError(f"{lock_file}:{i + 1}: must be name==version, given {line!r}")
    return sorted(requirements)


def _source_files(name: str, version: str, lock_file: Path) -> list[str]:
    remedy = f"install {lock_file.name} as it stands, or take another data.source"
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise CorpusError(f"{lock_file}: {name} {version} is not installed: {remedy}") from None
    # A local part such as +cpu names the build; the sources are the same.
    if package.version.partition("+")[0] != version.partition("+")[0]:
        raise CorpusError(f"{lock_file}: {name} must be {version}, installed is {package.version}: {remedy}")
    files = sorted(package.files or [])
    return [str(package.locate_file(file)) for file in files if _is_wanted(file.parts)]


def _is_wanted(parts: tuple[str, ...]) -> bool:
    name = parts[-1]
    return name.endswith(".py") and not name.startswith("test_") and _SKIPPED_FOLDERS.isdisjoint(parts)


def _sentences_of_files(files: list[str], processes: int, say: Say) -> list[str]:
    progress = Progress(say, "reading docstrings", unit="files", total=len(files))
    sentences: list[str] = []
    with contextlib.ExitStack() as stack:
        found: Iterable[list[str]] = map(_sentences_of_file, files)
        if processes > 1:
            # Spawned, since forking a process that already has torch's or the tokenizer's threads can hang.
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent)
            # Ctrl-C is for this process alone, which ends the others: a blocked signal stays so in what is started
            former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                # an executor ends when all is done, unless told otherwise: few files remain in what has begun
                stack.push(lambda kind, *_: pool.shutdown(cancel_futures=kind is not None))
                found = pool.map(_sentences_of_file, files, chunksize=16)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, former)
        for of_file in found:
            sentences += of_file
            progress.advance(1)
    return sentences


def _end_with_parent() -> None:
    """Let this process end when the one that started it is gone, which killed could not say so."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "called where a pool starts a process"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _sentences_of_file(path: str) -> list[str]:
    try:
        source = Path(path).read_bytes()
    except OSError:
        return []
    return sentences_of_source(source)


def _read_cache(path: Path) -> list[str] | None:
    """None where there is no cache, or a damaged one: then it is made again."""
    try:
        sentences: list[str] = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError):
        return None
    return sentences
