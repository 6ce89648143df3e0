import fsspec
import pytest

from model.data import hub_parts
from model.data.hub import Repository
from model.data.hub_parts import addresses

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def there(hub, tmp_path, monkeypatch):
    """A repository with two files, and its newest commit."""
    monkeypatch.setattr(hub_parts, "READ_AHEAD", 1000)
    folder = hub.root / "datasets" / "some" / "data"
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(CONTENT)
    (folder / "b.bin").write_bytes(b"b")
    repository = Repository(
        "some/data", "dataset", key="data.hub.id", way_out="a file", cache=tmp_path, say=lambda _: None
    )
    return repository, repository.snapshot(None)


def test_a_file_is_read_in_parts_wherever_it_is_asked_for(hub, there):
    (address,) = addresses(*there, ["a.bin"])
    hub.asked.clear()
    with fsspec.open(address, "rb") as file:
        assert file.seek(12_345) == 12_345
        assert file.read(10) == CONTENT[12_345:12_355]
        file.seek(-5, 2)
        assert file.read() == CONTENT[-5:]
    assert 0 < len(hub.files_asked("a.bin")) <= 4  # of its 26 parts


def test_a_file_that_is_here_is_not_asked_for(there):
    repository, snapshot = there
    repository.fetch(snapshot, ["b.bin"])
    local, remote = addresses(repository, snapshot, ["b.bin", "a.bin"])
    assert local == str(snapshot.folder / "b.bin")
    assert remote == "hptune-hub://a.bin"
