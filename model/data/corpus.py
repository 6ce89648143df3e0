"""The corpus of a study: distinct documents, shuffled once, in a train, a validation and a held-out split.

Where documents come from is `model.data.documents`' and `model.data.docstrings`'; this module cleans, splits,
fingerprints, and writes the one file that carries a corpus to other machines.
"""

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
import pydantic

from model.config.data import DataConfig
from model.data import docstrings, pretrained
from model.data.documents import read_file
from model.data.files import write_corpus_file
from model.data.hub_dataset import read_hub
from model.data.hub_requests import HubUnreachableError
from model.data.progress import Progress, Say, silent
from model.errors import CorpusError

ResolvedSource = Literal["hub", "file", "docstrings"]
_Gathered = tuple[Sequence[str], ResolvedSource, str]

_MOST_COMPRESSED = 64
"""Bytes of a corpus in one of its file: text comes to 3, lines that differ in a number to 12. Zeros come to 1,000."""
_ALWAYS_READ_BYTES = 2**26
"""Of a corpus, however well it is compressed."""
_SMALLEST = 10
"""Documents without which a corpus is a mistake; `data.num_documents` has the same bound."""
_PIECE = 100_000
"""Documents between two looks at the clock."""


@dataclass(frozen=True)
class Corpus:
    """Distinct documents in three splits, none of them empty, and what they came from."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]
    """Read by the final evaluation alone."""
    source: str
    """One plain line: what it came from."""
    resolved_source: ResolvedSource
    """What `auto` came to."""
    duplicates: int
    """Documents dropped because an earlier one was the same."""
    notes: tuple[str, ...] = ()
    """Plain sentences for the user: what is otherwise than was asked for."""
    tokenizer: str | None = None
    """One trained elsewhere, in the tokenizers library's JSON: it travels with the documents to every worker."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the documents in order, of where splits begin and of a tokenizer that came along.

        Not of `source` and notes.
        """
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.held_out):
            digest.update(f"{len(split)}\n".encode())
            for document in split:
                content = document.encode()
                # Lengths first, so that no two different corpora give the same bytes.
                digest.update(f"{len(content)}\n".encode() + content)
        if self.tokenizer is not None:
            digest.update(b"tokenizer\n" + self.tokenizer.encode())
        return digest.hexdigest()


class _CorpusFile(pydantic.BaseModel):
    """What `write` puts into a file."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid")

    format: Literal["hptune-corpus-1"] = "hptune-corpus-1"
    fingerprint: str
    corpus: Corpus


def build(data: DataConfig, *, cache: Path, tokenizer: str | None = None, say: Say = silent) -> Corpus:
    """The corpus that `data` describes.

    Documents are stripped, empty ones dropped, then all but the first of equal ones. What is left is shuffled
    with `data.seed`; the first `num_documents` are train and validation, in that order, and the next
    `held_out_documents` are held out. Where there are fewer, both shrink in proportion, and a note says so.

    Args:
        data: The `data` section.
        cache: Folder for what takes long to gather.
        tokenizer: `tokenizer.pretrained`: what is to be fetched with the documents.
        say: Takes lines for the user about what takes long.

    Raises:
        CorpusError: the source or the tokenizer cannot be read, or there are fewer than 10 distinct documents.
    """
    notes: list[str] = []
    documents, resolved_source, source = _gather(data, cache, notes, say)
    fetched = None
    if tokenizer is not None:
        fetched, which = pretrained.fetch(tokenizer, cache=cache, say=say)
        source += f"; tokenizer {which}"
    distinct, duplicates = _cleaned(documents, say)
    if len(distinct) < _SMALLEST:
        where = data.path if resolved_source == "file" else source
        raise CorpusError(
            f"{where}: has {len(distinct)} distinct documents, a corpus needs at least {_SMALLEST}"
        )
    n_train, n_validation, n_held_out = _sizes(len(distinct), data, notes)
    order = np.random.Generator(np.random.PCG64(data.seed)).permutation(len(distinct))
    shuffled = [distinct[i] for i in order[: n_train + n_validation + n_held_out]]
    return Corpus(
        train=tuple(shuffled[:n_train]),
        validation=tuple(shuffled[n_train : n_train + n_validation]),
        held_out=tuple(shuffled[n_train + n_validation :]),
        source=source,
        resolved_source=resolved_source,
        duplicates=duplicates,
        notes=tuple(notes),
        tokenizer=fetched,
    )


def _cleaned(documents: Sequence[str], say: Say) -> tuple[list[str], int]:
    """The distinct documents that hold something, and how many were like an earlier one."""
    distinct: dict[str, None] = {}
    full = 0
    progress = Progress(say, "cleaning", unit="documents", total=len(documents))
    for start in range(0, len(documents), _PIECE):
        cleaned = [
            stripped for document in documents[start : start + _PIECE] if (stripped := document.strip())
        ]
        distinct.update(dict.fromkeys(cleaned))
        full += len(cleaned)
        progress.advance(_PIECE)
    return list(distinct), full - len(distinct)


def _gather(data: DataConfig, cache: Path, notes: list[str], say: Say) -> _Gathered:
    match data.source:
        case "file":
            assert data.path is not None, "the schema asks for it"
            path = Path(data.path)
            return read_file(path, column=data.column), "file", f"file {path.name}"
        case "docstrings":
            return _gather_docstrings(cache, say)
        case "hub":
            documents, source = read_hub(data.hub, cache=cache, say=say)
            return documents, "hub", source
        case "auto":
            try:
                documents, source = read_hub(data.hub, cache=cache, say=say)
            except HubUnreachableError as error:
                notes.append(
                    f"the hub cannot be reached ({error.reason}): "
                    "using the docstrings of the installed packages instead"
                )
                return _gather_docstrings(cache, say)
            return documents, "hub", source
        case _:
            assert_never(data.source)


def _gather_docstrings(cache: Path, say: Say) -> _Gathered:
    sentences, packages = docstrings.harvest(docstrings.LOCK_FILE, cache=cache, say=say)
    return sentences, "docstrings", f"docstrings of {packages} packages"


def _sizes(available: int, data: DataConfig, notes: list[str]) -> tuple[int, int, int]:
    """Documents of the train, validation and held-out split, each at least 1."""
    wanted = data.num_documents + data.held_out_documents
    n_search, n_held_out = data.num_documents, data.held_out_documents
    if available < wanted:
        n_search = min(max(2, available * data.num_documents // wanted), available - 1)
        n_held_out = available - n_search
        notes.append(
            f"all {available:,} documents are taken, up to {wanted:,} would be: {n_search:,} for training and "
            f"validation, {n_held_out:,} held out"
        )
    n_validation = min(max(1, round(n_search * data.validation_fraction)), n_search - 1)
    return n_search - n_validation, n_validation, n_held_out


def write(corpus: Corpus, path: Path) -> None:
    """Make `path` a file with all of `corpus`; the same corpus gives the same bytes.

    Raises:
        CorpusError: it cannot be written.
    """
    content = _CorpusFile(fingerprint=corpus.fingerprint, corpus=corpus).model_dump_json().encode()
    compressed = gzip.compress(content, mtime=0)
    if len(content) > _largest_content(len(compressed)):
        raise CorpusError(
            f"{corpus.source}: its documents repeat one another {len(content) // len(compressed)} times over; a corpus "
            f"that size may be compressed to one part in {_MOST_COMPRESSED}"
        )
    write_corpus_file(path, compressed)


def _largest_content(compressed_bytes: int) -> int:
    """What a corpus file of that size may hold: a small one that expands without end fills no memory."""
    return max(_ALWAYS_READ_BYTES, _MOST_COMPRESSED * compressed_bytes)


def read(path: Path) -> Corpus:
    """The corpus in a file that `write` made.

    Raises:
        CorpusError: the file is missing, unreadable, truncated, or made by something else.
    """
    try:
        limit = _largest_content(path.stat().st_size)
        with gzip.open(path) as compressed:
            content = compressed.read(limit + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise CorpusError(f"{path}: not a corpus file, or a truncated one: make it again") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise CorpusError(f"{path}: not a corpus file: expands to more than {limit:,} bytes")
    try:
        file = _CorpusFile.model_validate_json(content)
    except pydantic.ValidationError:
        raise CorpusError(f"{path}: not a corpus file of this project: make it again") from None
    if file.corpus.fingerprint != file.fingerprint:
        raise CorpusError(f"{path}: the documents do not match their fingerprint: make it again")
    return file.corpus
