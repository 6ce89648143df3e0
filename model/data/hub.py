"""Files of a repository of the Hugging Face hub at one exact commit, in the hub library's own cache.

Files come over plain HTTP, which every network lets through that lets the hub through; the library's other way, Xet,
needs hosts of its own and waits for minutes where a firewall keeps it from them.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from model.data.files import write_corpus_file
from model.data.hub_requests import DamagedError, HubUnreachableError, Kind, Requests, endpoint, host
from model.data.progress import Progress, Say, shown_bytes
from model.errors import CorpusError

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 10.0
_PATIENCE_SECONDS = 300.0
_PIECE = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository at a commit."""

    name: str
    """Its path in the repository."""
    size: int | None = None
    """In bytes; None where the hub does not say."""
    digest: str | None = None
    """SHA-256 of a large file, git's SHA-1 of a small one; None where the hub does not say."""


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit."""

    commit: str
    folder: Path
    """Where the hub library keeps this commit's files."""
    files: Mapping[str, RemoteFile]

    def cached(self, name: str) -> Path | None:
        """The file, where it is here already."""
        path = self.folder / name
        return path if path.is_file() else None


class Repository:
    """A repository of the hub, to be read for a key of the configuration.

    Its methods raise CorpusError: one line with the key, what is wrong and what is allowed. Where there is no
    connection at all it is a HubUnreachableError.

    Args:
        name: what the hub calls it.
        kind: what it holds.
        key: the key that names it, such as `data.hub.id`.
        way_out: what is allowed without a connection.
        cache: folder for lists of files, so that a commit met again needs no connection.
        say: takes a line for the user.
        patience_seconds: how long the hub may be away, or ask to be left alone, without any progress.
        read_seconds: how long it may take to answer.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        *,
        key: str,
        way_out: str,
        cache: Path,
        say: Say,
        patience_seconds: float = _PATIENCE_SECONDS,
        read_seconds: float = _READ_SECONDS,
    ) -> None:
        self.name, self.kind = name, kind
        self._cache, self._say, self._read_seconds = cache, say, read_seconds
        self._requests = Requests(name, kind, key, way_out, say, patience_seconds)

    def snapshot(self, revision: str | None) -> Snapshot:
        """The commit that `revision` (branch, tag or commit; None: the newest) is, and its files.

        A commit that is known here is not asked for. Without a connection it is what an earlier reading found.
        """
        if revision is not None and (known := self._known(revision)):
            return known
        self._say(f"asking {host()} for {self.name}")
        try:
            with self._requests.door():
                info = self._requests.patiently(lambda: self._ask(revision))
        except HubUnreachableError as error:
            earlier = self._known(self._earlier_commit(revision))
            if earlier is None:
                raise
            self._say(f"the hub cannot be reached ({error.reason}): {self.name} as it was fetched earlier")
            return earlier
        files = [_remote_file(sibling) for sibling in info.siblings or () if _stays_inside(sibling.rfilename)]
        write_corpus_file(self._list_path(info.sha), json.dumps([asdict(file) for file in files]).encode())
        with contextlib.suppress(CorpusError):  # a cache that may only be read can have all that is needed
            write_corpus_file(self._ref_path(revision), info.sha.encode())
        return self._found(info.sha, files)

    def fetch(self, snapshot: Snapshot, names: Sequence[str]) -> list[Path]:
        """The files `names`, fetched where they are not here yet."""
        missing = [snapshot.files[name] for name in names if snapshot.cached(name) is None]
        sizes = [file.size for file in missing if file.size is not None]
        total = sum(sizes) if len(sizes) == len(missing) else None
        if total is None or total > _PIECE:
            size = "size unknown" if total is None else shown_bytes(total)
            self._say(f"fetching {self.name}: {len(missing)} file{'s' * (len(missing) != 1)}, {size}")
        progress = Progress(self._say, f"fetching {self.name}", unit=None, total=total)
        with self._requests.door():
            for file in missing:
                self._download(snapshot, file, progress)
        return [snapshot.folder / name for name in names]

    def read_range(self, snapshot: Snapshot, name: str, begin: int, end: int) -> bytes:
        """The bytes of a file from `begin` to before `end`, without fetching the rest."""

        def ask() -> bytes:
            with self._get(snapshot, name, f"bytes={begin}-{end - 1}") as response:
                if response.status_code != 206:
                    raise CorpusError(f"{self._requests.where}: {host()} does not send parts of {name}")
                return bytes(response.read())

        with self._requests.door():
            return self._requests.patiently(ask)

    @property
    def _folder(self) -> Path:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.name, repo_type=self.kind)

    def _list_path(self, commit: str) -> Path:
        return self._cache / f"hub-{commit}.json"

    def _ref_path(self, revision: str | None) -> Path:
        return self._folder / "refs" / (revision or "main")

    def _earlier_commit(self, revision: str | None) -> str:
        try:
            return self._ref_path(revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""

    def _found(self, commit: str, files: Sequence[RemoteFile]) -> Snapshot:
        return Snapshot(commit, self._folder / "snapshots" / commit, {file.name: file for file in files})

    def _known(self, commit: str) -> Snapshot | None:
        """A commit whose files were listed here earlier, or fetched by another program."""
        if not _COMMIT.match(commit):
            return None
        folder = self._folder / "snapshots" / commit
        try:
            files = [RemoteFile(**entry) for entry in json.loads(self._list_path(commit).read_bytes())]
        except (OSError, ValueError, TypeError):
            paths = (path for path in folder.rglob("*") if path.is_file())
            files = [RemoteFile(path.relative_to(folder).as_posix()) for path in paths]
        return self._found(commit, files) if files else None

    def _ask(self, revision: str | None) -> Any:
        from huggingface_hub import HfApi

        return HfApi(endpoint=endpoint()).repo_info(
            self.name, repo_type=self.kind, revision=revision, files_metadata=True, timeout=self._limit()
        )

    def _limit(self) -> Any:
        from httpx2 import Timeout

        return Timeout(self._read_seconds, connect=min(_CONNECT_SECONDS, self._read_seconds))

    @contextlib.contextmanager
    def _get(self, snapshot: Snapshot, name: str, part: str | None) -> Iterator[Any]:
        """The hub's answer to a question for a file, or for a part of it, before its body is read."""
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(self.name, name, repo_type=self.kind, revision=snapshot.commit, endpoint=endpoint())
        headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": part} if part else {})
        with get_session().stream("GET", url, headers=headers, timeout=self._limit()) as response:
            if response.status_code == 416:
                raise DamagedError  # what is here is longer than what the hub has
            hf_raise_for_status(response)
            self._requests.answered = True
            yield response

    def _download(self, snapshot: Snapshot, file: RemoteFile, progress: Progress) -> None:
        """One file into its place, from where an earlier attempt broke off."""
        target = snapshot.folder / file.name
        name = hashlib.sha256(f"{snapshot.commit}/{file.name}".encode()).hexdigest()
        partial = self._folder / "blobs" / f"{name}.incomplete"
        for path in (target, partial):
            path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("ab") as content:
            fcntl.flock(content, fcntl.LOCK_EX)  # of two processes the second one finds it done
            if target.exists():
                partial.unlink(missing_ok=True)
                return
            progress.skip(content.seek(0, os.SEEK_END))
            self._requests.patiently(
                lambda: self._transfer(snapshot, file, content, progress), size=content.tell
            )
            os.fsync(content.fileno())
            partial.replace(target)

    def _transfer(self, snapshot: Snapshot, file: RemoteFile, content: IO[bytes], progress: Progress) -> None:
        """Append what a file lacks. Raises DamagedError, with nothing kept, where it is not what the hub has."""
        begin = content.tell()
        try:
            if begin == 0 or begin != file.size:
                with self._get(snapshot, file.name, f"bytes={begin}-" if begin else None) as response:
                    if response.status_code == 200:
                        _discard(content, progress)  # a server that sends no parts begins anew
                    for piece in response.iter_bytes():  # as it comes: what has arrived is kept
                        content.write(piece)
                        progress.advance(len(piece))
            content.flush()
            if not _is_whole(Path(content.name), file):
                raise DamagedError
        except DamagedError:
            _discard(content, progress)
            raise


def _remote_file(sibling: Any) -> RemoteFile:
    large = sibling.lfs
    return RemoteFile(sibling.rfilename, sibling.size, large.sha256 if large else sibling.blob_id)


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _is_whole(path: Path, file: RemoteFile) -> bool:
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return False
    if file.digest is None:
        return True
    # git's digest of a small file is over its size and content
    digest = hashlib.sha256() if len(file.digest) == 64 else hashlib.sha1(f"blob {size}\0".encode())
    with path.open("rb") as content:
        while piece := content.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest() == file.digest


def _discard(content: IO[bytes], progress: Progress) -> None:
    progress.skip(-content.tell())
    content.truncate(0)
    content.seek(0)
