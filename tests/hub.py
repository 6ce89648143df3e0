"""A Hugging Face hub on 127.0.0.1, as far as its library and `datasets` ask it when they read, which can be broken.

A folder holds the repositories: `datasets/OWNER/NAME` and `models/OWNER/NAME`, each with its files. `NAME@REVISION`
beside one is another revision of it; an empty file `.gated` lets its files be read with the token alone. Files from
`LARGE` bytes on are redirected to another host name, as the real hub sends for what is in its file store.
"""

import hashlib
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

LARGE = 1_000_000
TOKEN = "hf_granted"
_REPOSITORY = r"/api/(datasets|models)/([^/]+/[^/]+)"


@dataclass
class Fault:
    """What happens to requests whose path has `path` in it, a regular expression."""

    path: str
    do: Literal["status", "cut", "hang", "slow", "corrupt"]
    times: float = 1
    method: str | None = None
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    sent_bytes: int = 0
    """Of a `cut` answer's body."""
    seconds: float = 60.0
    """That a `hang` keeps silent."""
    bytes_per_second: int = 1024
    """Of a `slow` body."""


@dataclass(frozen=True)
class Asked:
    """A request, and what came of it."""

    method: str
    path: str
    status: int
    sent_bytes: int
    headers: dict[str, str]


@dataclass(frozen=True)
class _Stored:
    name: str
    content: bytes

    @cached_property
    def digest(self) -> str:
        if self.is_large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def is_large(self) -> bool:
        return len(self.content) >= LARGE

    def described(self) -> dict[str, Any]:
        entry = {"type": "file", "oid": self.digest, "size": len(self.content), "path": self.name}
        large = {"lfs": {"oid": self.digest, "size": len(self.content), "pointerSize": 134}}
        return entry | (large if self.is_large else {})

    def as_sibling(self) -> dict[str, Any]:
        entry = {"rfilename": self.name, "size": len(self.content), "blobId": self.digest[:40]}
        large = {"lfs": {"sha256": self.digest, "size": len(self.content), "pointerSize": 134}}
        return entry | (large if self.is_large else {})


class _Repository:
    def __init__(self, folder: Path) -> None:
        self.gated = (folder / ".gated").exists()
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".gated")
        names = (path.relative_to(folder).as_posix() for path in paths)
        self.files = {name: _Stored(name, path.read_bytes()) for name, path in zip(names, paths, strict=True)}
        digests = "".join(f"{name} {file.digest}\n" for name, file in self.files.items())
        self.commit = hashlib.sha1(f"{folder.name}\n{digests}".encode()).hexdigest()

    def tree(self, under: str, *, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{under}/" if under else ""
        inside = [name for name in self.files if name.startswith(prefix)]
        folders = sorted({p.as_posix() for name in inside for p in Path(name).parents} - {"."})
        entries = [{"type": "directory", "oid": "", "size": 0, "path": path} for path in folders]
        entries += [self.files[name].described() for name in inside]
        return [e for e in entries if recursive or "/" not in e["path"].removeprefix(prefix)]


class Hub(ThreadingHTTPServer):
    """The server; `with Hub(folder) as hub:` runs it.

    Args:
        root: the folder with the repositories, read when they are first asked for.
        xet: announce a Xet store, at a port where nothing listens.
    """

    daemon_threads = True

    def __init__(self, root: Path, *, xet: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.xet = root, xet
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._repositories: dict[Path, _Repository] = {}
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, kind: str, name: str) -> str:
        """What a repository's folder is at."""
        return self.repository(self.root / kind / name).commit

    def repository(self, folder: Path) -> _Repository:
        with self._lock:
            if folder not in self._repositories:
                self._repositories[folder] = _Repository(folder)
            return self._repositories[folder]

    def forget(self) -> None:
        """Read the folders again: their files have changed."""
        self._repositories.clear()

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method in (None, method) and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def files_asked(self, name: str) -> list[Asked]:
        """The requests for the content of a file."""
        return [asked for asked in self.asked if asked.method == "GET" and asked.path.endswith(name)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        path, query = urllib.parse.unquote(url.path), urllib.parse.parse_qs(url.query)
        self.fault = self.server.fault(self.command, path)
        if self.fault and self.fault.do == "hang":
            self._note(0, 0)
            self.server.closing.wait(self.fault.seconds)
            self.close_connection = True
        elif self.fault and self.fault.do == "status":
            self._send(self.fault.status, b"{}", self.fault.headers)
        elif "/xet-read-token/" in path:
            dead = {"X-Xet-Cas-Url": "http://127.0.0.1:9", "X-Xet-Access-Token": "t"}
            self._send(200, b"{}", dead | {"X-Xet-Token-Expiration": "4000000000"})
        elif match := re.fullmatch(_REPOSITORY + r"(?:/revision/(.+))?", path):
            if repository := self._find(*match.groups()):
                files = [file.as_sibling() for file in repository.files.values()]
                facts = {"id": match[2], "sha": repository.commit, "private": False, "siblings": files}
                self._send_json(facts | {"gated": "auto" if repository.gated else False, "tags": []})
        elif match := re.fullmatch(_REPOSITORY + r"/tree/([^/]+)/?(.*)", path):
            if repository := self._find(match[1], match[2], match[3]):
                tree = repository.tree(match[4], recursive=query.get("recursive", [""])[0].lower() == "true")
                self._send_json(tree) if tree else self._refuse(404, "EntryNotFound")
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/(resolve|cdn)/([^/]+)/(.+)", path):
            self._send_file("datasets" if match[1] else "models", *match.groups()[1:])
        else:
            self._refuse(404, "")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        path = urllib.parse.unquote(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.fault = self.server.fault(self.command, path)
        match = re.fullmatch(_REPOSITORY + r"/paths-info/(.+)", path)
        if match and (repository := self._find(*match.groups())):
            is_json = "json" in self.headers.get("Content-Type", "")
            wanted = json.loads(body)["paths"] if is_json else urllib.parse.parse_qs(body)["paths"]
            self._send_json([e for e in repository.tree("", recursive=True) if e["path"] in wanted])
        elif not match:
            self._refuse(404, "")

    def _find(self, kind: str, name: str, revision: str | None) -> _Repository | None:
        """The repository at a revision; None after it was refused as the hub refuses it."""
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return None
        base = self.server.root / kind / name
        for folder in (base, *base.parent.glob(f"{base.name}@*")) if base.is_dir() else ():
            repository = self.server.repository(folder)
            if revision in (None, repository.commit, folder.name.partition("@")[2] or "main"):
                return repository
        if base.is_dir():
            self._refuse(404, "RevisionNotFound")
        else:
            self._refuse(404 if given else 401, "RepoNotFound")
        return None

    def _send_file(self, kind: str, name: str, how: str, revision: str, path: str) -> None:
        repository = self._find(kind, name, revision)
        if repository is None:
            return
        commit = {"X-Repo-Commit": repository.commit}
        if repository.gated and how == "resolve" and "Authorization" not in self.headers:
            self._refuse(401, "GatedRepo")
        elif path not in repository.files:
            self._refuse(404, "EntryNotFound")
        elif repository.files[path].is_large and how == "resolve":
            file = repository.files[path]
            place = f"http://localhost:{self.server.server_port}{self.path.replace('/resolve/', '/cdn/', 1)}"
            linked = {"X-Linked-Size": str(len(file.content)), "X-Linked-Etag": f'"{file.digest}"'}
            if self.server.xet:
                route = f"{self.server.url}/api/{kind}/{name}/xet-read-token/{repository.commit}"
                linked |= {"X-Xet-Hash": file.digest, "X-Xet-Refresh-Route": route}
            self._send(302, b"Found", commit | linked | {"Location": f"{place}?signature=SECRET"})
        else:
            self._send_content(repository.files[path], commit)

    def _send_content(self, file: _Stored, headers: dict[str, str]) -> None:
        size, first, last = len(file.content), 0, len(file.content) - 1
        headers |= {"ETag": f'"{file.digest}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
            last = min(int(asked[2]), last) if asked[1] and asked[2] else last
            if first >= size:
                self._send(416, b"", {"Content-Range": f"bytes */{size}"})
                return
            headers |= {"Content-Range": f"bytes {first}-{last}/{size}"}
        self._send(206 if asked else 200, file.content[first : last + 1], headers)

    def _refuse(self, status: int, code: str, message: str = "refused") -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def _send_json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        sent = 0
        try:
            for piece in self._pieces(b"" if self.command == "HEAD" else body):
                sent += self.wfile.write(piece)
        except OSError:
            self.close_connection = True
        self._note(status, sent)

    def _pieces(self, body: bytes) -> Iterator[bytes]:
        """The body as the fault of this request lets it pass."""
        do = self.fault.do if self.fault else None
        if self.fault and do == "cut":
            self.close_connection = True
            yield body[: self.fault.sent_bytes]
        elif self.fault and do == "slow":
            for start in range(0, len(body), self.fault.bytes_per_second):
                yield body[start : start + self.fault.bytes_per_second]
                time.sleep(1)
        elif do == "corrupt":
            yield bytes(len(body))
        else:
            yield body

    def _note(self, status: int, sent: int) -> None:
        headers = {key.title(): value for key, value in self.headers.items()}
        path = urllib.parse.urlsplit(self.path).path
        self.server.asked.append(Asked(self.command, path, status, sent, headers))

    def log_message(self, *_: object) -> None:
        pass
