import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data import hub as hub_module
from model.data.hub import RemoteFile, Repository
from model.errors import CorpusError
from tests.hub import Fault

SMALL, LARGE = b"a,b\n1,2\n", bytes(range(256)) * 5000


@pytest.fixture
def files(hub):
    for name, content in {"README.md": b"words", "data/a.csv": SMALL, "data/b.bin": LARGE}.items():
        path = hub.root / "datasets" / "some" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return hub


@pytest.fixture
def repository(files, tmp_path):
    said = []
    made = Repository(
        "some/data", "dataset", key="data.hub.id", way_out="a file", cache=tmp_path / "lists", say=said.append,
        read_seconds=60,
    )  # fmt: skip
    made.said = said
    return made


def test_a_snapshot_is_a_commit_with_all_its_files(files, repository):
    snapshot = repository.snapshot(None)
    assert snapshot.commit == files.commit("datasets", "some/data")
    assert {name: file.size for name, file in snapshot.files.items()} == {
        "README.md": 5, "data/a.csv": len(SMALL), "data/b.bin": len(LARGE),
    }  # fmt: skip
    assert snapshot.cached("data/a.csv") is None


def test_files_are_fetched_once_and_are_what_the_hub_has(files, repository):
    snapshot = repository.snapshot(None)
    paths = repository.fetch(snapshot, ["data/b.bin", "data/a.csv"])
    assert [path.read_bytes() for path in paths] == [LARGE, SMALL]
    assert snapshot.cached("data/a.csv") == paths[1]
    files.asked.clear()
    assert repository.fetch(snapshot, ["data/a.csv", "data/b.bin"]) == paths[::-1]
    assert files.asked == []


def test_a_commit_that_is_known_is_not_asked_for(files, repository):
    snapshot = repository.snapshot("main")
    files.asked.clear()
    assert repository.snapshot(snapshot.commit) == snapshot
    assert files.asked == []


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (1000, 5000), (len(LARGE) - 3, len(LARGE))])
def test_a_part_of_a_file_is_read_without_the_rest(repository, begin, end):
    snapshot = repository.snapshot(None)
    assert repository.read_range(snapshot, "data/b.bin", begin, end) == LARGE[begin:end]
    assert snapshot.cached("data/b.bin") is None


def test_a_file_that_is_not_there_is_named(repository, files):
    snapshot = repository.snapshot(None)
    files.faults = [Fault("a.csv", "status", status=404, headers={"X-Error-Code": "EntryNotFound"}, times=9)]
    with pytest.raises(CorpusError, match=r"^data\.hub\.id: some/data has no a\.csv$"):
        repository.fetch(snapshot, ["data/a.csv"])


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a", True),
        ("a/b.csv", True),
        ("a/..b", True),
        ("/etc/passwd", False),
        ("../a", False),
        ("a/../../b", False),
    ],
)
def test_a_name_that_leads_out_of_the_cache_is_none(name, inside):
    assert hub_module._stays_inside(name) is inside


@given(st.binary(max_size=200), st.booleans(), st.binary(max_size=200))
def test_a_file_is_whole_where_size_and_digest_are_the_hubs(tmp_path_factory, content, large, other):
    path = tmp_path_factory.getbasetemp() / "file"
    path.write_bytes(content)
    # git's own: `printf 'blob SIZE\\0CONTENT' | sha1sum`
    digest = hashlib.sha256(content) if large else hashlib.sha1(b"blob %d\0" % len(content) + content)
    assert hub_module._is_whole(path, RemoteFile("file", len(content), digest.hexdigest()))
    assert hub_module._is_whole(path, RemoteFile("file"))
    path.write_bytes(other)
    assert hub_module._is_whole(path, RemoteFile("file", None, digest.hexdigest())) == (other == content)
    assert hub_module._is_whole(path, RemoteFile("file", len(content))) == (len(other) == len(content))
