import io
import os
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound

from service.storage import artifact_stores
from service.storage.artifact_stores import S3Error, StoreError, fetch, open_store
from tests.service.conftest import KEY, SECRET


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path):
    if request.param == "folder":
        return open_store(str(tmp_path / "artifacts"))
    return open_store(f"s3://{request.getfixturevalue('bucket')}/some/prefix")


def content_of(store, artifact_id: str) -> bytes:
    with store.open_reader(artifact_id) as file:
        return file.read()


def test_what_is_written_is_read_replaced_and_removed(store):
    for content in (b"before", b"", b"x" * 3_000_000):
        store.write("a-1.bin", io.BytesIO(content))
        assert store.has("a-1.bin")
        assert content_of(store, "a-1.bin") == content
    for _ in range(2):  # the second time it is gone already
        store.remove("a-1.bin")
        assert not store.has("a-1.bin")
    with pytest.raises(ArtifactNotFound, match=f"^artifact a-1.bin is not in {store}$"):
        store.open_reader("a-1.bin")


def test_what_is_made_at_a_path_is_stored_whole_or_not_at_all(store, tmp_path):
    def breaks_off(path):
        path.write_bytes(b"half")
        raise OSError("no space left")

    store.write_made("a-1.bin", lambda path: path.write_bytes(b"first"))
    with pytest.raises(OSError, match="no space left"):
        store.write_made("a-1.bin", breaks_off)
    assert content_of(store, "a-1.bin") == b"first"
    store.write_made("a-1.bin", lambda path: path.write_bytes(b"second"))
    assert content_of(store, "a-1.bin") == b"second"
    assert [path.name for path in tmp_path.rglob("*") if path.name.startswith(".")] == []


def test_opening_a_store_to_write_removes_what_killed_writers_have_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    left = [tmp_path / folder / f".state.{'0' * 32}.tmp" for folder in ("tmp", "artifacts")]
    for path in left:
        path.parent.mkdir()
        path.touch()
        os.utime(path, (0, 0))
    open_store(str(tmp_path / "artifacts"))
    assert all(path.exists() for path in left)
    open_store(str(tmp_path / "artifacts"), writable=True)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize(
    "hostile", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0b", "a b", "a\n", "é"]
)
def test_an_id_that_is_a_path_is_refused(store, hostile):
    made = lambda i: store.write_made(i, lambda path: path.write_bytes(b"x"))  # noqa: E731
    for act in (store.open_reader, store.remove, made, lambda i: store.write(i, io.BytesIO(b"x"))):
        with pytest.raises(ArtifactNotFound, match="is not an artifact id"):
            act(hostile)


def test_nothing_is_read_in_one_piece(store):
    class Watched(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1) -> bytes:
            content = super().read(size)
            self.largest = max(self.largest, len(content))
            return content

    content = Watched(b"x" * 8_000_000)
    store.write("a", content)
    assert 0 < content.largest <= 2**20
    assert len(content_of(store, "a")) == 8_000_000


def test_readers_and_writers_at_once_see_whole_contents(store):
    contents = [bytes([letter]) * 300_000 for letter in b"abcd"]
    store.write("a", io.BytesIO(contents[0]))

    def write_and_read(content: bytes) -> set[bytes]:
        seen = set()
        for _ in range(10):
            store.write("a", io.BytesIO(content))
            seen.add(content_of(store, "a"))
        return seen

    with ThreadPoolExecutor(4) as pool:
        seen = set().union(*pool.map(write_and_read, contents))
    assert seen <= set(contents)


def test_the_objects_are_under_the_prefix(bucket):
    for location, key in (
        (f"s3://{bucket}", "a"),
        (f"s3://{bucket}/", "b"),
        (f"s3://{bucket}/x/y/", "x/y/c"),
    ):
        store = open_store(location, writable=True)
        assert str(store) == location.rstrip("/")
        store.write(key[-1], io.BytesIO(b"content"))
        assert boto3.Session().client("s3").get_object(Bucket=bucket, Key=key)["Body"].read() == b"content"
    listed = boto3.Session().client("s3").list_objects_v2(Bucket=bucket)
    assert [entry["Key"] for entry in listed["Contents"]] == ["a", "b", "x/y/c"]  # no probe is left


@pytest.mark.parametrize(
    "location",
    ["s3:", "s3://", "s3:///x", "S3:/x", "s3:/bucket/x", "S3://bucket/x", "gs://bucket", "file:///x", "s3://ab",
     "s3://Bucket", "s3://bucket/../x", "s3://bucket/x//y", "s3://bucket/ü", "s3://bucket?x=y", "s3://bucket/a\nb"],
)  # fmt: skip
def test_a_location_that_is_none_is_refused(location):
    with pytest.raises(StoreError) as caught:
        open_store(location)
    assert str(caught.value).startswith("HPTUNE_ARTIFACTS: must be a folder or s3://bucket/prefix, given '")


def test_a_key_in_the_location_is_not_repeated():
    with pytest.raises(StoreError, match=r"given 's3://\*\*\*@bucket/x'$"):
        open_store(f"s3://{KEY}:{SECRET}@bucket/x")


def assert_refused(location: str, reason: str) -> None:
    with pytest.raises(StoreError, match=reason) as caught:
        open_store(location, writable=True)
    message = str(caught.value)
    assert message.startswith("HPTUNE_ARTIFACTS: ")
    assert "\n" not in message
    assert KEY not in message
    assert SECRET not in message


def test_an_s3_that_cannot_be_used_is_refused_in_one_line(bucket, monkeypatch):
    assert_refused(
        "s3://no-such-bucket/x", "s3://no-such-bucket/x: artifacts cannot be stored there: .*exist"
    )
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        assert_refused(f"s3://{bucket}", "Unable to locate credentials")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_PROFILE", "nobody")
        assert_refused(f"s3://{bucket}", "nobody")
    for endpoint in ("nonsense", f"http://{KEY}:{SECRET}@127.0.0.1:1", f"//{KEY}:{SECRET}@x:y"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert_refused(f"s3://{bucket}", "endpoint")


def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "inner"):
        assert_refused(str(folder), r"artifacts cannot be stored there: (Not a directory|File exists)$")
    open_store(str(tmp_path / "new"), writable=True)
    assert list((tmp_path / "new").iterdir()) == []


def test_errors_for_a_while_are_waited_out(bucket, gate):
    store = open_store(f"s3://{bucket}")
    for how in ("500", "cut"):
        gate.damage(how, times=2)
        store.write("a", io.BytesIO(b"content" * 10_000))
        assert gate.broken == 2
        assert content_of(store, "a") == b"content" * 10_000


@pytest.mark.parametrize("how", ["500", "cut", "silent"])
def test_errors_without_end_are_given_up_and_harm_nothing(bucket, gate, monkeypatch, how):
    monkeypatch.setattr(artifact_stores, "READ_SECONDS", 0.2)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")  # the bounds are not the environment's
    store = open_store(f"s3://{bucket}")
    store.write("a", io.BytesIO(b"former" * 10_000))
    for act in (lambda: store.write("a", io.BytesIO(b"latter" * 10_000)), lambda: store.has("a")):
        gate.damage(how)
        started = time.monotonic()
        with pytest.raises(S3Error) as caught:
            act()
        assert gate.broken == artifact_stores.ATTEMPTS
        # 1 s and 2 s between the attempts at most; a minute for a busy machine, where nine attempts take minutes more
        assert time.monotonic() - started < artifact_stores.ATTEMPTS * artifact_stores.READ_SECONDS + 3 + 60
        message = str(caught.value)
        assert "\n" not in message
        assert KEY not in message
        assert SECRET not in message
    gate.mend()
    assert content_of(store, "a") == b"former" * 10_000


def test_a_download_that_is_cut_off_is_an_oserror_and_no_short_file(bucket, gate, tmp_path):
    store = open_store(f"s3://{bucket}")
    store.write("a", io.BytesIO(b"x" * 300_000))
    gate.damage("cut")
    with pytest.raises(S3Error):
        fetch(store, "a", tmp_path / "a")


def _link(path):
    (path.parent / "secret").write_text("nobody's business")
    path.symlink_to(path.parent / "secret")


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _device(path):
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("a device can be made by root alone")


@pytest.mark.parametrize(
    "put", [_link, os.mkfifo, os.mkdir, _socket, _device], ids=["link", "pipe", "folder", "socket", "device"]
)
def test_what_is_no_file_is_no_artifact(tmp_path, put):
    store = open_store(str(tmp_path))
    put(tmp_path / "a")
    with pytest.raises(ArtifactNotFound, match="is not a file"):
        store.open_reader("a")  # at once: nobody writes to the pipe
    assert not store.has("a")


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    _link(tmp_path / "a")
    store = open_store(str(tmp_path))
    store.write("a", io.BytesIO(b"new"))
    assert content_of(store, "a") == b"new"
    assert (tmp_path / "secret").read_text() == "nobody's business"


def test_an_artifact_that_does_not_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact_stores, "LARGEST_BYTES", 1000)
    store = open_store(str(tmp_path))
    store.write("a", io.BytesIO(b"x" * 1000))
    fetch(store, "a", tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size == 1000
    store.write("a", io.BytesIO(b"x" * 1001))
    with pytest.raises(OSError, match="larger than 1,000 bytes"):
        fetch(store, "a", tmp_path / "copy")
