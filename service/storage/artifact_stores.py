"""Where artifacts are kept: a folder that all workers see, or a bucket on S3.

An artifact is complete or absent, whoever writes it at the same moment and wherever a write breaks off. A store that
is away or full shows as OSError; what follows from that is the caller's matter. What others put into a folder that is
no plain file (a link to somewhere else, a pipe that would never end, a device) is no artifact.
"""

import contextlib
import errno
import io
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from optuna.artifacts.exceptions import ArtifactNotFound

from model.data.files import open_atomically, scratch, sweep
from model.errors import UserError

CONNECT_SECONDS = 3.0
"""For a connection to one address of S3, and for 16 KiB of an upload to be taken."""
READ_SECONDS = 5.0
"""Silence of S3 after which an attempt is given up."""
ATTEMPTS = 3
"""Of one call, in botocore's standard mode: again after time-outs, 5xx and throttling, at most 1 s and 2 s apart.
A silent S3 holds a worker up for 3 × (1 + 5) + 3 = 21 s a call at most, the 1 being botocore's wait for leave to send;
one whose n addresses swallow every packet for 3 × 3 n + 3 s."""


LARGEST_BYTES = 5 * 10**9
"""Of an artifact that is copied from a store: what S3 takes by one request."""


class StoreError(UserError):
    """The artifact store cannot be used as it is given."""


class S3Error(OSError):
    """S3 did not do what it was asked to. One line, without credentials."""


class Store(Protocol):
    """What Optuna, its dashboard and this project ask of an artifact store."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The artifact, open for reading. Raises ArtifactNotFound, OSError."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store the content in place of a former one. Raises OSError; the former one is untouched then."""

    def write_made(self, artifact_id: str, make: Callable[[Path], None]) -> None:
        """`write` what `make` writes to the path that it is given. Raises OSError, and what `make` raises."""

    def remove(self, artifact_id: str) -> None:
        """See that the artifact is not there. Raises OSError."""

    def has(self, artifact_id: str) -> bool:
        """It is there. Raises OSError."""


def open_store(location: str, *, writable: bool = False) -> Store:
    """The store at `location`.

    Args:
        location: a folder, or `s3://bucket/prefix`, the prefix being optional. boto3 takes credentials, region and
            endpoint from where it always does (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...).
        writable: see that it can be written; a folder is made, and it and that for temporary files are rid of what
            killed writers have left there. Otherwise nothing is asked of it yet.

    Raises:
        StoreError: it is no such location, or it cannot be written.
    """
    is_url = re.match(r"[A-Za-z][\w+.-]*:", location)
    store: Store = _s3_store(location) if is_url else FolderStore(Path(location))
    if writable:
        probe = f"probe-{uuid.uuid4()}"
        try:
            store.write(probe, io.BytesIO())
            store.remove(probe)
        except OSError as error:
            raise StoreError(
                f"HPTUNE_ARTIFACTS: {store}: artifacts cannot be stored there: {error.strerror or error}"
            ) from None
        sweep()
        if isinstance(store, FolderStore):
            sweep(store.folder)
    return store


@contextlib.contextmanager
def fetched(store: Store, artifact_id: str) -> Iterator[Path]:
    """A copy of an artifact in a file of its own, gone afterwards. Raises ArtifactNotFound, OSError."""
    with scratch() as folder:
        path = folder / artifact_id
        fetch(store, artifact_id, path)
        yield path


def fetch(store: Store, artifact_id: str, path: Path) -> None:
    """Copy an artifact to the file `path`. Raises ArtifactNotFound, OSError."""
    with path.open("wb") as target:
        copy(store, artifact_id, target)


def copy(store: Store, artifact_id: str, target: BinaryIO) -> None:
    """Copy an artifact to an open file. Raises ArtifactNotFound, OSError: one beyond LARGEST_BYTES among others."""
    left = LARGEST_BYTES
    with store.open_reader(artifact_id) as source:
        while chunk := source.read(min(2**20, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise OSError(errno.EFBIG, f"artifact {artifact_id} is larger than {LARGEST_BYTES:,} bytes")
            target.write(chunk)


def _s3_store(location: str) -> "S3Store":
    match = re.fullmatch(
        r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<prefix>[\w./=-]*))?", location, re.ASCII
    )
    prefix = ((match and match["prefix"]) or "").strip("/")
    if match is None or any(part in ("", ".", "..") for part in (prefix or "-").split("/")):
        raise StoreError(
            f"HPTUNE_ARTIFACTS: must be a folder or s3://bucket/prefix, given {_without_secrets(location)!r}"
        )
    try:
        client = boto3.Session().client(
            "s3",
            config=Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            ),
        )
    except (BotoCoreError, ValueError) as error:  # a profile that is not there, an endpoint that is no URL
        raise StoreError(f"HPTUNE_ARTIFACTS: {location}: {_without_secrets(error)}") from None
    return S3Store(match["bucket"], prefix, client)


@dataclass(frozen=True)
class FolderStore:
    """Artifacts as files of one folder."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The artifact, open for reading. Raises ArtifactNotFound, OSError."""
        path = self._path(artifact_id)
        try:
            # a link is not followed, a pipe without a writer not waited for
            opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ArtifactNotFound(f"artifact {artifact_id} is not in {self}") from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
                raise self._no_file(artifact_id) from None
            raise
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise self._no_file(artifact_id)
        return os.fdopen(opened, "rb")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store the content in place of a former one. Raises OSError; the former one is untouched then."""
        with open_atomically(self._path(artifact_id)) as file:
            shutil.copyfileobj(content_body, file)

    def write_made(self, artifact_id: str, make: Callable[[Path], None]) -> None:
        """`write` what `make` writes to the path that it is given, which is never copied."""
        path = self._path(artifact_id)
        with scratch(self.folder) as folder:
            make(folder / "made")
            with (folder / "made").open("rb") as file:
                os.fsync(file.fileno())
            (folder / "made").replace(path)

    def remove(self, artifact_id: str) -> None:
        """See that the artifact is not there. Raises OSError."""
        self._path(artifact_id).unlink(missing_ok=True)

    def has(self, artifact_id: str) -> bool:
        """It is there. Raises OSError."""
        path = self._path(artifact_id)
        return path.is_file() and not path.is_symlink()

    def _no_file(self, artifact_id: str) -> ArtifactNotFound:
        return ArtifactNotFound(f"artifact {artifact_id} in {self} is not a file")

    def _path(self, artifact_id: str) -> Path:
        return self.folder / _checked(artifact_id)


@dataclass(frozen=True)
class S3Store:
    """Artifacts as objects of one bucket, under a prefix.

    An object is written by one request, so that no part of it is ever visible; S3 takes up to 5 GB that way.
    """

    bucket: str
    prefix: str
    client: Any

    def __str__(self) -> str:
        return "/".join(filter(None, ("s3:/", self.bucket, self.prefix)))

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The artifact, open for reading. Raises ArtifactNotFound, OSError, the latter in reading too."""
        with self._failures(artifact_id):
            body = self.client.get_object(**self._address(artifact_id))["Body"]
        return io.BufferedReader(_Body(body, partial(self._failures, artifact_id)))

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store the content in place of a former one. Raises OSError; the former one is untouched then."""
        with self._failures(artifact_id):
            self.client.put_object(**self._address(artifact_id), Body=content_body)

    def write_made(self, artifact_id: str, make: Callable[[Path], None]) -> None:
        """`write` what `make` writes to the path that it is given."""
        with scratch() as folder:
            make(folder / "made")
            with (folder / "made").open("rb") as file:
                self.write(artifact_id, file)

    def remove(self, artifact_id: str) -> None:
        """See that the artifact is not there. Raises OSError."""
        with self._failures(artifact_id):
            self.client.delete_object(**self._address(artifact_id))

    def has(self, artifact_id: str) -> bool:
        """It is there. Raises OSError."""
        address = self._address(artifact_id)
        with contextlib.suppress(ArtifactNotFound), self._failures(artifact_id):
            self.client.head_object(**address)
            return True
        return False

    def _address(self, artifact_id: str) -> dict[str, str]:
        key = "/".join(filter(None, (self.prefix, _checked(artifact_id))))
        return {"Bucket": self.bucket, "Key": key}

    @contextlib.contextmanager
    def _failures(self, artifact_id: str) -> Iterator[None]:
        """What boto3 raises as what a store raises."""
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                raise ArtifactNotFound(f"artifact {artifact_id} is not in {self}") from None
            raise S3Error(_without_secrets(error)) from None


class _Body(io.RawIOBase):
    """The content of an object as it arrives."""

    def __init__(self, body: Any, failures: Callable[[], AbstractContextManager[None]]) -> None:
        self._body = body
        self._failures = failures

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._failures():
            chunk = self._body.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._body.close()
        super().close()


def _checked(artifact_id: str) -> str:
    """The id, which is a plain name and no path. Raises ArtifactNotFound for another."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", artifact_id):
        raise ArtifactNotFound(f"{artifact_id!r} is not an artifact id")
    return artifact_id


def _without_secrets(message: object) -> str:
    """The message on one line, user and password of any URL in it masked."""
    return re.sub(r"//[^/\s]*@", "//***@", " ".join(str(message).split()))
