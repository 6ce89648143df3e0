import gzip
import shutil

import pytest

from model.errors import CorpusError
from service.storage.corpus import load_corpus
from service.storage.database import open_storage
from service.storage.studies import load_study


def load(study):
    loaded, _ = load_study(open_storage(study.settings), "tiny", study.settings)
    return load_corpus(loaded, study.settings)


@pytest.fixture
def places(tiny):
    """The study's corpus in the cache and in the store."""
    tiny.create(1)
    (cached,) = tiny.settings.cache.glob("corpus-*.json.gz")
    (stored,) = (tiny.folder / "artifacts").glob("corpus-*")
    assert cached.read_bytes() == stored.read_bytes()
    return cached, stored


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "another": lambda content: content[:-8] + b"\0" * 8,
    "no corpus": lambda _: gzip.compress(b"[]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_artifact_is_not_kept(tiny, places, damage):
    cached, stored = places
    content = stored.read_bytes()
    corpus = load(tiny)
    cached.unlink()
    stored.write_bytes(damage(content))
    with pytest.raises(CorpusError, match=r"^study 'tiny': corpus-\w+ in .*artifacts is damaged: ") as caught:
        load(tiny)
    assert ".tmp" not in str(caught.value)
    assert not list(cached.parent.glob("*corpus-*"))
    stored.write_bytes(content)  # mended
    assert load(tiny) == corpus
    assert cached.read_bytes() == content


def test_a_damaged_file_in_the_cache_is_replaced(tiny, places):
    cached, stored = places
    corpus = load(tiny)
    cached.write_bytes(b"left by a crash")
    assert load(tiny) == corpus
    assert cached.read_bytes() == stored.read_bytes()


def test_a_cache_that_cannot_be_written_is_one_line(tiny, places):
    cached, _ = places
    shutil.rmtree(cached.parent)
    cached.parent.write_text("a file")
    with pytest.raises(CorpusError, match="cannot be written: File exists; HPTUNE_CACHE names another"):
        load(tiny)
