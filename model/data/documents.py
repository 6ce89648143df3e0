"""Documents as they stand in a file, one string each.

Says precisely what is wrong with a file that cannot be read. Datasets of the hub are `model.data.hub_dataset`'s;
cleaning, shuffling and splitting are `model.data.corpus`'s. A null is an empty document, as an empty cell of a .csv is.
"""

import contextlib
import csv
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model.errors import CorpusError

_MEMORY = {".txt": 3, ".csv": 6, ".jsonl": 3}
"""That reading a file takes, in sizes of the file: 2.9, 5.7 and 3.1 for titles of 57 characters."""


def read_file(path: Path, *, column: str | None) -> list[str]:
    """The documents of a .txt (one a line), .csv, .jsonl or .parquet file, in its order.

    Args:
        path: The file; text is UTF-8, with or without a byte order mark.
        column: Column (for .jsonl: key) with the text; None where there is only one text column.

    Raises:
        CorpusError: the file is missing, no regular file, unreadable, not of its kind or not UTF-8, has no such
            column, or holds something other than text there. Names the file and, where known, line or row.
    """
    readers: dict[str, Callable[[Path, str | None], list[str]]] = {
        ".txt": _read_lines,
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if path.exists() and not path.is_file():
        what = "directory" if path.is_dir() else "pipe or a device"
        raise CorpusError(f"{path}: is a {what}, data.path must be a file ({', '.join(readers)})")
    if reader is None:
        raise CorpusError(f"{path}: unknown suffix {path.suffix!r}, allowed: {', '.join(readers)}")
    try:
        _refuse_beyond_memory(path, times=_MEMORY.get(path.suffix.lower(), 0))
        return reader(path, column)
    except CorpusError:
        raise
    except OSError as error:
        looked_for = "" if path.is_absolute() else f"; data.path is taken from {Path.cwd()} on"
        raise CorpusError(
            f"{path}: cannot be read: {error.strerror or _one_line(error)}{looked_for}"
        ) from None
    except (
        Exception
    ) as error:  # parsers have exceptions of their own, and bare ones for files that no one foresaw
        raise CorpusError(f"{path}: not a valid {path.suffix[1:].lower()} file: {_one_line(error)}") from None


def _refuse_beyond_memory(path: Path, *, times: int) -> None:
    """Raise CorpusError where the system would end this process, without a word, for what it takes."""
    size, free = path.stat().st_size, _free_bytes()
    if size * times > free:
        raise CorpusError(
            f"{path}: reading {size / 1e9:,.1f} GB takes about {size * times / 1e9:,.1f} GB of memory, of which "
            f"{free / 1e9:,.1f} GB are free; give a part of the file"
        )


def _free_bytes() -> float:
    """Memory that this machine has left, or this process's container may have; infinite where it is not known."""
    free = math.inf
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    for limit in (
        "memory.max",
        "memory/memory.limit_in_bytes",
    ):  # cgroup v2 and v1; "max" where there is none
        with contextlib.suppress(OSError, ValueError):
            free = min(free, int(Path("/sys/fs/cgroup", limit).read_text()))
    return free


def _read_lines(path: Path, column: str | None) -> list[str]:
    if column is not None:
        raise CorpusError(f"{path}: a .txt file has no columns, data.column must be null, given {column!r}")
    return _lines(path)


def _read_csv(path: Path, column: str | None) -> list[str]:
    csv.field_size_limit(sys.maxsize)  # a cell may be as long as the file, which is in memory
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        index = header.index(choose_column(column, header, where=str(path), key="data.column"))
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
    for i, line in enumerate(_lines(path)):
        if not line.strip():
            continue
        where = f"{path}:{i + 1}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{where}: not valid JSON: {error.msg}") from None
        except RecursionError:
            raise CorpusError(f"{where}: not valid JSON: nested too deeply") from None
        except ValueError:
            raise CorpusError(f"{where}: holds a number of too many digits") from None
        if not isinstance(record, dict):
            raise CorpusError(f"{where}: must be a JSON object, is a {type(record).__name__}")
        if not documents:
            text_keys = [key for key, value in record.items() if value is None or isinstance(value, str)]
            column = choose_column(column, text_keys, where=where, key="data.column")
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
    import pyarrow.parquet  # type: ignore[import-untyped]

    documents: list[str] = []
    # A file object, since a path goes through pyarrow's own file systems and their own error messages.
    with path.open("rb") as opened, pyarrow.parquet.ParquetFile(opened) as file:
        names = [field.name for field in file.schema_arrow if is_text(field.type)]
        chosen = choose_column(column, names, where=str(path), key="data.column")
        for batch in file.iter_batches(columns=[chosen]):
            # a column of numbers may have the same name
            (values,) = (values for values in batch.columns if is_text(values.type))
            documents += _texts(values, where=str(path), first_row=len(documents) + 1)
    return documents


def _texts(values: Any, *, where: str, first_row: int) -> list[str]:
    try:
        return [value or "" for value in values.to_pylist()]
    except UnicodeDecodeError:
        for i, value in enumerate(values):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise CorpusError(
                    f"{where}: row {first_row + i:,}: not text in UTF-8, byte {byte:#04x}"
                ) from None
        raise


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is text."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def choose_column(column: str | None, text_columns: Sequence[str], *, where: str, key: str) -> str:
    """The column with the text: the one asked for, or the only one. Raises CorpusError where it is none of them."""
    allowed = ", ".join(text_columns) or "none, there is no text column"
    if column is None and len(text_columns) == 1:
        return text_columns[0]
    if column is None:
        raise CorpusError(
            f"{where}: {key} must name the column with the text, given null, allowed: {allowed}"
        )
    if column not in text_columns:
        raise CorpusError(f"{where}: {key} must be a text column, given {column!r}, allowed: {allowed}")
    if text_columns.count(column) > 1:
        raise CorpusError(
            f"{where}: has {text_columns.count(column)} columns named {column!r}, must have one"
        )
    return column


def _lines(path: Path) -> list[str]:
    text = _read_text(path)
    return text.split("\n" if "\n" in text else "\r")  # the latter as on the first Macintoshes


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
