"""Files of the hub read part by part, for a library that opens addresses: `datasets`, by way of fsspec.

The hub library has such addresses, too, but behind them every failure is retried for many minutes, unseen.
"""

from collections.abc import Sequence
from typing import Any

from model.data.hub import Repository, Snapshot

_PROTOCOL = "hptune-hub"
READ_AHEAD = 1 << 22
"""Bytes that are read at once."""


def addresses(repository: Repository, snapshot: Snapshot, names: Sequence[str]) -> list[str]:
    """Where the files can be read from: here, or in parts from the hub. Holds until it is called again."""
    import fsspec  # type: ignore[import-untyped]

    class Parts(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = _PROTOCOL
        cachable = False

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            name = self._strip_protocol(path)
            return {"name": name, "size": snapshot.files[name].size, "type": "file"}

        def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
            return File(self, path, mode, block_size=READ_AHEAD, size=self.info(path)["size"])

    class File(fsspec.spec.AbstractBufferedFile):  # type: ignore[misc]
        def _fetch_range(self, begin: int, end: int) -> bytes:
            return repository.read_range(snapshot, self.path, begin, end)

    fsspec.register_implementation(_PROTOCOL, Parts, clobber=True)
    return [str(snapshot.cached(name) or f"{_PROTOCOL}://{name}") for name in names]
