"""The documents of a dataset of the Hugging Face hub, or of a local folder of data files, one string each.

Which files make a subset's split, and what is in them, is the library `datasets`' to say. It sees files alone, never
the hub: where it asks the hub itself, it takes an older version from its cache for an answer that did not come.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.config.data import HubConfig
from model.data import hub_parts
from model.data.documents import choose_column, is_text
from model.data.hub import Repository, Snapshot
from model.data.hub_requests import plain
from model.data.progress import Progress, Say, silent
from model.errors import CorpusError

_DESCRIPTIONS = ("README.md", ".huggingface.yaml", "dataset_infos.json")
"""Files that say what a dataset's subsets and splits are."""
_ROWS = 10_000


def read_hub(hub: HubConfig, *, cache: Path, say: Say = silent, **limits: float) -> tuple[list[str], str]:
    """The documents of a dataset, and one line saying which commit they are.

    `hub.id` may also be a local folder of data files, such as a clone of a dataset. Files that are here already are
    not fetched again; without a connection a dataset is what it was when it was fetched. With `hub.first_rows` the
    split is read as a stream that ends there: the beginning of a revision is the same for ever, which a shuffle of
    the library's own would not promise across its versions, and `model.data.corpus` shuffles what was read.

    Args:
        hub: What to read.
        cache: Folder for lists of files.
        say: Takes a line for the user, the first one at once.
        limits: `patience_seconds` and `read_seconds` of `model.data.hub.Repository`.

    Raises:
        HubUnreachableError: there is no connection, and the dataset is not here.
        CorpusError: the hub has no such dataset, subset, revision, split or column, does not let us read it, or fails.
    """
    name = hub.id if hub.subset is None else f"{hub.id} ({hub.subset})"
    where = f"dataset {name}, split {hub.split}"
    if Path(hub.id).is_dir():
        with _libraries(where, say):
            builder = _builder(Path(hub.id), hub)
            return _read(builder, _files(builder, hub), hub, where=where, say=say), f"folder {name}"
    if hub.id.startswith((".", "/", "~")):
        raise CorpusError(f"data.hub.id: there is no folder {hub.id}")
    repository = Repository(
        hub.id,
        "dataset",
        key="data.hub.id" if hub.revision is None else f"data.hub.revision {hub.revision}",
        way_out="data.source file or docstrings",
        cache=cache,
        say=say,
        **limits,
    )
    snapshot = repository.snapshot(hub.revision)
    with tempfile.TemporaryDirectory() as folder, _libraries(where, say, hidden=folder):
        outline = Path(folder) / Path(hub.id).name
        _sketch(snapshot, repository, outline)
        builder = _builder(outline, hub)
        names = [Path(file).relative_to(outline.resolve()).as_posix() for file in _files(builder, hub)]
        files = hub_parts.addresses(repository, snapshot, names)
        if snapshot.cached(names[0]) is None:
            is_large = (snapshot.files[names[0]].size or 0) > 2 * hub_parts.READ_AHEAD
            _check_column(builder, files if is_large else [], hub, where)
        if hub.first_rows is None or None in [snapshot.files[name].size for name in names]:
            files = [str(path) for path in repository.fetch(snapshot, names)]
        documents = _read(builder, files, hub, where=where, say=say)
    return documents, f"hub {name} at {snapshot.commit}"


def _sketch(snapshot: Snapshot, repository: Repository, folder: Path) -> None:
    """A folder with the names of a snapshot's files, empty but for those that say what belongs together."""
    described = [
        name for name in snapshot.files if name in _DESCRIPTIONS or name.lower().endswith((".zip", ".tar"))
    ]
    repository.fetch(snapshot, described)
    for name in snapshot.files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in described:
            path.symlink_to(snapshot.folder / name)
        else:
            path.touch()


def _builder(folder: Path, hub: HubConfig) -> Any:
    # Imported here: it takes most of a second, and a run over a prepared corpus never needs it.
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        return datasets.load_dataset_builder(str(folder), name=hub.subset, cache_dir=cache)


def _files(builder: Any, hub: HubConfig) -> list[str]:
    """The data files of the split."""
    splits: Mapping[str, Sequence[str]] = {
        str(name): files for name, files in builder.config.data_files.items()
    }
    if hub.split not in splits:
        raise CorpusError(
            f"data.hub.split: {hub.id} has no split {hub.split!r}, allowed: {', '.join(splits)}"
        )
    return list(splits[hub.split])


def _stream(builder: Any, files: Sequence[str], hub: HubConfig) -> Any:
    builder.config.data_files = {hub.split: list(files)}
    return builder.as_streaming_dataset(split=hub.split)


def _check_column(builder: Any, files: Sequence[str], hub: HubConfig, where: str) -> None:
    """Refuse another column than there is, from what a dataset says of itself or the beginning of `files`."""
    if builder.info.features is None and files:
        # what was not read as a whole is not known to be undamaged
        with contextlib.suppress(ArithmeticError, LookupError, OSError, RuntimeError, StopIteration):
            beginning = _stream(builder, files[:1], hub).with_format("arrow")
            if builder.info.features is None:
                _column(next(iter(beginning.iter(batch_size=1))).schema, hub, where)
    if builder.info.features is not None:
        _column(builder.info.features.arrow_schema, hub, where)


def _column(schema: Any, hub: HubConfig, where: str) -> str:
    names = [field.name for field in schema if is_text(field.type)]
    return choose_column(hub.column, names, where=where, key="data.hub.column")


def _read(builder: Any, files: Sequence[str], hub: HubConfig, *, where: str, say: Say) -> list[str]:
    rows = _stream(builder, files, hub)
    if hub.first_rows is not None:
        rows = rows.take(hub.first_rows)
    documents: list[str] = []
    column = None
    progress = Progress(say, "reading", unit="rows", total=hub.first_rows)
    for table in rows.with_format("arrow").iter(batch_size=_ROWS):
        column = column or _column(table.schema, hub, where)
        # thousands of titles may all be empty, or numbers, which then is what a .csv seems to hold
        texts = table.column(column).cast("string")
        documents += [text or "" for text in texts.to_pylist()]
        progress.advance(len(table))
    return documents


class _Relay(logging.Handler):
    """Says what a library would log."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(plain(Exception(record.getMessage())))


@contextlib.contextmanager
def _libraries(where: str, say: Say, *, hidden: str = "") -> Iterator[None]:
    """Whatever the libraries raise leaves as a CorpusError of one line, and what they log as lines for the user.

    Args:
        where: the dataset.
        say: takes a line.
        hidden: a folder of ours that no message shall name.
    """
    relay = _Relay(say)
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    handlers = [logger.handlers for logger in loggers]
    for logger in loggers:
        logger.handlers = [relay]
    try:
        yield
    except CorpusError:
        raise
    except Exception as error:  # bare RuntimeErrors among them
        said = plain(error).replace(f"{hidden}/", "") if hidden else plain(error)
        raise CorpusError(f"{where}: cannot be loaded: {said}") from None
    finally:
        for logger, before in zip(loggers, handlers, strict=True):
            logger.handlers = before
