"""Documents as they stand in a file or in a dataset of the Hugging Face hub, one string each.

Says precisely what is wrong with a source that cannot be read. Cleaning, shuffling and splitting are
`model.corpus`'s. A null is an empty document, as an empty cell of a .csv is.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model.config import HubConfig
from model.errors import CorpusError


class HubUnreachableError(CorpusError):
    """The hub did not answer: nothing is known about the dataset. `reason` is a plain phrase."""

    def __init__(self, hub: HubConfig, error: Exception) -> None:
        self.reason = _one_line(error)
        super().__init__(
            f"data.hub.id: {hub.id} cannot be fetched, the hub cannot be reached ({self.reason}): "
            "allowed without it: data.source file or docstrings"
        )


def read_file(path: Path, *, column: str | None) -> list[str]:
    """The documents of a .txt (one a line), .csv, .jsonl or .parquet file, in its order.

    Args:
        path: The file; text is UTF-8, with or without a byte order mark.
        column: Column (for .jsonl: key) with the text; None where there is only one text column.

    Raises:
        CorpusError: the file is missing, a directory, unreadable, not of its kind or not UTF-8, has no such
            column, or holds something other than text there. Names the file and, in a text file, the line.
    """
    readers: dict[str, Callable[[Path, str | None], list[str]]] = {
        ".txt": _read_lines,
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if path.is_dir():
        raise CorpusError(f"{path}: is a directory, data.path must be a file ({', '.join(readers)})")
    if reader is None:
        raise CorpusError(f"{path}: unknown suffix {path.suffix!r}, allowed: {', '.join(readers)}")
    try:
        return reader(path, column)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or _one_line(error)}") from None


def read_hub(hub: HubConfig, *, timeout_seconds: float = 5.0) -> tuple[list[str], str]:
    """The documents of a dataset, and one line saying which commit they are.

    `hub.id` may also be a local folder of data files, such as a clone of a dataset. With `HF_HUB_OFFLINE`
    set, what an earlier run left in the library's own cache is used. With `hub.first_rows` the split is read
    as a stream that ends there: the beginning of a revision is the same for ever, which a shuffle of the
    library's own would not promise across its versions, and `model.corpus` shuffles what was read.

    Args:
        hub: What to fetch.
        timeout_seconds: How long the hub may take to answer the question for the commit. It comes first, so
            that a machine without a network knows at once, before `datasets` begins its retries.

    Raises:
        HubUnreachableError: no answer, or none that the hub gave.
        CorpusError: the hub has no such dataset, subset, revision, split or column, or does not let us read it.
    """
    if Path(hub.id).is_dir():
        return _load_column(hub, hub.revision), f"folder {_named(hub)}"
    commit = _resolve_commit(hub, timeout_seconds)
    documents = _load_column(hub, commit or hub.revision)
    return documents, f"hub {_named(hub)} at {commit or 'a commit unknown offline'}"


def _named(hub: HubConfig) -> str:
    return hub.id if hub.subset is None else f"{hub.id} ({hub.subset})"


def _resolve_commit(hub: HubConfig, timeout_seconds: float) -> str | None:
    """The commit that `hub.revision` is now; None in the library's offline mode."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub_errors

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        return api.dataset_info(hub.id, revision=hub.revision, timeout=timeout_seconds).sha
    except hub_errors.OfflineModeIsEnabled:
        return None
    except hub_errors.RevisionNotFoundError:
        raise CorpusError(f"data.hub.revision: {hub.id} has no revision {hub.revision!r}") from None
    except hub_errors.GatedRepoError:
        raise CorpusError(
            f"data.hub.id: {hub.id} asks for its terms to be accepted on the hub first"
        ) from None
    except hub_errors.RepositoryNotFoundError:
        raise CorpusError(f"data.hub.id: the hub has no public dataset {hub.id!r}") from None
    except hub_errors.HFValidationError as error:
        raise CorpusError(
            f"data.hub.id: not a dataset's name, given {hub.id!r}: {_one_line(error)}"
        ) from None
    except (HTTPError, OSError) as error:
        raise HubUnreachableError(hub, error) from None


def _load_column(hub: HubConfig, revision: str | None) -> list[str]:
    # Imported here: it takes most of a second, and a run over a prepared corpus never needs it.
    import datasets
    import pyarrow  # type: ignore[import-untyped]
    from httpx2 import HTTPError

    where = f"dataset {_named(hub)}, split {hub.split}"
    streaming = hub.first_rows is not None
    try:
        dataset = datasets.load_dataset(
            hub.id, name=hub.subset, revision=revision, split=hub.split, streaming=streaming
        )
        if streaming:
            batches = dataset.take(hub.first_rows).with_format("arrow").iter(batch_size=1_000)
            table = pyarrow.concat_tables(batches)
        else:
            table = dataset.data
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise HubUnreachableError(hub, error) from None
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise CorpusError(f"{where}: cannot be loaded: {_one_line(error)}") from None
    return _text_of_table(table, hub.column, where=where, key="data.hub.column")


def _read_lines(path: Path, column: str | None) -> list[str]:
    if column is not None:
        raise CorpusError(f"{path}: a .txt file has no columns, data.column must be null, given {column!r}")
    return _read_text(path).split("\n")


def _read_csv(path: Path, column: str | None) -> list[str]:
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        index = header.index(_choose_column(column, header, where=str(path), key="data.column"))
        documents = []
        for row in reader:
            if row and len(row) != len(header):
                raise CorpusError(
                    f"{path}:{reader.line_num}: must have {len(header)} cells like the header, has {len(row)}"
                )
            documents += row[index : index + 1]
    except csv.Error as error:
        raise CorpusError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None
    return documents


def _read_jsonl(path: Path, column: str | None) -> list[str]:
    documents: list[str] = []
    for i, line in enumerate(_read_text(path).split("\n")):
        if not line.strip():
            continue
        where = f"{path}:{i + 1}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{where}: not valid JSON: {error.msg}") from None
        if not isinstance(record, dict):
            raise CorpusError(f"{where}: must be a JSON object, is a {type(record).__name__}")
        if not documents:
            text_keys = [key for key, value in record.items() if value is None or isinstance(value, str)]
            column = _choose_column(column, text_keys, where=where, key="data.column")
        assert column is not None, "the first record has settled it"
        if column not in record:
            raise CorpusError(f"{where}: has no key {column!r}, it has: {', '.join(record)}")
        value = record[column] if record[column] is not None else ""
        if not isinstance(value, str):
            raise CorpusError(f"{where}: {column!r} must be text, given {json.dumps(value)[:60]}")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise CorpusError(f"{where}: {column!r} holds half of a surrogate pair, which is not text")
        documents.append(value)
    return documents


def _read_parquet(path: Path, column: str | None) -> list[str]:
    import pyarrow
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        # A file object, since a path goes through pyarrow's own file systems and their own error messages.
        with path.open("rb") as file:
            table = pyarrow.parquet.read_table(file)
    except pyarrow.ArrowInvalid as error:
        raise CorpusError(f"{path}: not a valid parquet file: {_one_line(error)}") from None
    return _text_of_table(table, column, where=str(path), key="data.column")


def _text_of_table(table: Any, column: str | None, *, where: str, key: str) -> list[str]:
    """The strings of one column of an Arrow table."""
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        if types.is_dictionary(kind):
            kind = kind.value_type
        return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))

    text_columns = [field.name for field in table.schema if is_text(field.type)]
    chosen = _choose_column(column, text_columns, where=where, key=key)
    return [value or "" for value in table.column(chosen).to_pylist()]


def _choose_column(column: str | None, text_columns: Sequence[str], *, where: str, key: str) -> str:
    allowed = ", ".join(text_columns) or "none, there is no text column"
    if column is None and len(text_columns) == 1:
        return text_columns[0]
    if column is None:
        raise CorpusError(
            f"{where}: {key} must name the column with the text, given null, allowed: {allowed}"
        )
    if column not in text_columns:
        raise CorpusError(f"{where}: {key} must be a text column, given {column!r}, allowed: {allowed}")
    return column


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.object is the content without its byte order mark.
        line = error.object.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{path}:{line}: not text in UTF-8, byte {error.object[error.start]:#04x}"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CorpusError(f"{path}:{line}: holds a zero byte, must be a text file in UTF-8")
    return text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
