import gzip
import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config.data import DataConfig, HubConfig
from model.data import corpus as corpus_module
from model.data import docstrings, progress
from model.data.corpus import Corpus, build, read, write
from model.data.hub_requests import HubUnreachableError
from model.errors import CorpusError
from tests.hub import Fault

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=1, max_size=4)


def make(train=("a", "b"), validation=("c",), held_out=("d",), **facts):
    facts = {"source": "file a.txt", "resolved_source": "file", "duplicates": 0, **facts}
    return Corpus(tuple(train), tuple(validation), tuple(held_out), **facts)


def build_from_lines(tmp_path, lines, **settings):
    path = tmp_path / "titles.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return build(DataConfig(source="file", path=str(path), **settings), cache=tmp_path / "cache")


def test_splits_are_distinct_clean_and_of_the_sizes_asked_for(tmp_path):
    titles = [f"title {i}" for i in range(200)]
    lines = ["", "  title 7  ", *titles, "title 3", "   ", "title 3"]
    corpus = build_from_lines(
        tmp_path, lines, num_documents=100, held_out_documents=50, validation_fraction=0.25
    )
    assert (len(corpus.train), len(corpus.validation), len(corpus.held_out)) == (75, 25, 50)
    everything = corpus.train + corpus.validation + corpus.held_out
    assert len(set(everything)) == 150
    assert set(everything) <= set(titles)
    assert corpus.duplicates == 3
    assert corpus.notes == ()
    assert corpus.source == "file titles.txt"
    assert corpus.resolved_source == "file"


def test_the_order_is_pinned_to_the_seed_for_all_time(tmp_path):
    # Written down from the first run: numpy promises that PCG64's stream stays, and a study relies on it.
    pinned = "3 6 9 5 7 8 2 10 4 11 0 1"
    titles = [str(i) for i in range(12)]
    corpus = build_from_lines(tmp_path, titles, num_documents=10, held_out_documents=2, seed=1337)
    assert corpus.train + corpus.validation + corpus.held_out == tuple(pinned.split())
    other = build_from_lines(tmp_path, titles, num_documents=10, held_out_documents=2, seed=1338)
    assert other.train != corpus.train


def test_the_validation_split_grows_out_of_the_end_of_the_same_order(tmp_path):
    titles = [str(i) for i in range(60)]
    small = build_from_lines(
        tmp_path, titles, num_documents=40, held_out_documents=20, validation_fraction=0.1
    )
    large = build_from_lines(
        tmp_path, titles, num_documents=40, held_out_documents=20, validation_fraction=0.5
    )
    assert small.train + small.validation == large.train + large.validation
    assert small.held_out == large.held_out


@given(
    available=st.integers(10, 60),
    num_documents=st.integers(10, 100_000),
    held_out=st.integers(1, 100_000),
    fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_no_split_is_ever_empty_and_too_few_documents_shrink_in_proportion(
    tmp_path_factory, available, num_documents, held_out, fraction
):
    corpus = build_from_lines(
        tmp_path_factory.mktemp("corpus"),
        map(str, range(available)),
        num_documents=num_documents,
        held_out_documents=held_out,
        validation_fraction=fraction,
    )
    sizes = len(corpus.train), len(corpus.validation), len(corpus.held_out)
    assert min(sizes) >= 1
    wanted = num_documents + held_out
    assert sum(sizes) == min(available, wanted)
    # Rounding moves a share by one document, and no split being empty by up to two.
    assert abs(sizes[2] - held_out * min(1, available / wanted)) <= 2
    assert abs(sizes[1] - fraction * (sizes[0] + sizes[1])) <= 1
    assert bool(corpus.notes) == (available < wanted)


def test_shrinking_is_said_in_one_plain_line(tmp_path):
    corpus = build_from_lines(tmp_path, map(str, range(60)), num_documents=1000, held_out_documents=200)
    assert corpus.notes == (
        "all 60 documents are taken, up to 1,200 would be: 50 for training and validation, 10 held out",
    )


@pytest.mark.parametrize("lines", [[], ["same"] * 50, [str(i) for i in range(9)]])
def test_too_few_distinct_documents_are_refused_with_file_and_count(tmp_path, lines):
    with pytest.raises(
        CorpusError, match=rf"titles\.txt: has {len(set(lines))} distinct documents, .* at least 10"
    ):
        build_from_lines(tmp_path, lines)


@pytest.fixture
def small_lock_file(tmp_path, monkeypatch):
    version = docstrings.importlib.metadata.version("click")
    path = tmp_path / "small.lock"
    path.write_text(f"click=={version}\n")
    monkeypatch.setattr(docstrings, "LOCK_FILE", path)


@pytest.mark.usefixtures("small_lock_file")
def test_auto_takes_docstrings_where_the_hub_cannot_be_reached_and_says_so(tmp_path, no_connection):
    no_connection()
    corpus = build(DataConfig(source="auto"), cache=tmp_path)
    assert corpus.resolved_source == "docstrings"
    assert corpus.source == "docstrings of 1 packages"
    assert corpus.notes[0].startswith("the hub cannot be reached (")
    assert corpus.notes[0].endswith("): using the docstrings of the installed packages instead")
    assert corpus.fingerprint == build(DataConfig(source="docstrings"), cache=tmp_path).fingerprint


def test_hub_alone_does_not_fall_back(tmp_path, no_connection):
    no_connection()
    with pytest.raises(CorpusError, match="cannot be fetched, the hub cannot be reached"):
        build(DataConfig(source="hub"), cache=tmp_path)


@pytest.mark.parametrize(
    ("path", "status", "token"),
    [
        ("/api/", 403, None),
        ("/api/", 200, "hf_expired"),
        (r"train-1\.csv", 404, None),
        (r"train-1\.csv", 403, None),
    ],
)
def test_auto_never_falls_back_on_an_answer(tmp_path, hub, monkeypatch, path, status, token):
    folder = hub.root / "datasets/some/titles/data"
    folder.mkdir(parents=True)
    for i in range(3):
        (folder / f"train-{i}.csv").write_text("title\n" + "\n".join(f"title {i} {j}" for j in range(20)))
    if status != 200:
        hub.faults = [Fault(path, "status", status=status, times=99)]
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    data = DataConfig(source="auto", hub=HubConfig(id="some/titles"), num_documents=10, held_out_documents=5)
    with pytest.raises(CorpusError, match=f"answers {status}|has no|HF_TOKEN") as caught:
        build(data, cache=tmp_path / "cache")
    assert not isinstance(caught.value, HubUnreachableError)


def test_what_takes_long_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)
    said = []
    path = tmp_path / "titles.txt"
    path.write_text("\n".join(map(str, range(250_000))))
    build(DataConfig(source="file", path=str(path)), cache=tmp_path, say=said.append)
    assert said[0].startswith("cleaning: 100,000 of 250,000 documents, ")
    assert said[0].endswith(" s left")


@pytest.mark.parametrize("source", ["hub", "auto"])
def test_a_dataset_is_loaded_and_split(tmp_path, source):
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "train.csv").write_text("id,title\n" + "".join(f"{i},title {i}\n" for i in range(20)))
    data = DataConfig(source=source, hub=HubConfig(id=str(folder)), num_documents=10, held_out_documents=5)
    corpus = build(data, cache=tmp_path / "cache")
    assert (corpus.resolved_source, corpus.notes) == ("hub", ())
    assert (len(corpus.train), len(corpus.validation), len(corpus.held_out)) == (9, 1, 5)


@given(st.tuples(TEXTS, TEXTS, TEXTS), st.tuples(TEXTS, TEXTS, TEXTS))
def test_fingerprints_are_equal_exactly_when_the_documents_are(one, other):
    assert (make(*one).fingerprint == make(*other).fingerprint) == (one == other)


def test_fingerprints_tell_apart_what_joins_to_the_same_text():
    assert make(train=["ab"]).fingerprint != make(train=["a", "b"]).fingerprint
    assert make(["a", "b"], ["c"]).fingerprint != make(["a"], ["b", "c"]).fingerprint
    assert make(["a\nb", "c"]).fingerprint != make(["a", "b\nc"]).fingerprint
    assert make(["a\n1\nb"]).fingerprint != make(["a", "b"]).fingerprint


def test_a_tokenizer_that_came_along_belongs_to_the_fingerprint():
    prints = {make(tokenizer=tokenizer).fingerprint for tokenizer in (None, "", "{}", '{"a": 1}')}
    assert len(prints) == 4


def test_the_fingerprint_does_not_depend_on_where_the_documents_came_from():
    assert make(notes=("a note",), source="elsewhere").fingerprint == make().fingerprint


@given(st.tuples(TEXTS, TEXTS, TEXTS))
def test_a_written_corpus_reads_back_equal(tmp_path_factory, splits):
    path = tmp_path_factory.mktemp("corpus") / "corpus.json.gz"
    corpus = make(*splits, notes=("a note",), duplicates=3, resolved_source="docstrings", tokenizer="{}")
    write(corpus, path)
    assert read(path) == corpus
    assert read(path).fingerprint == corpus.fingerprint


def test_the_same_corpus_gives_the_same_bytes(tmp_path):
    write(make(), tmp_path / "one")
    write(replace(make()), tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes()[4:8] == bytes(4)  # the time in a gzip header (RFC 1952)


def _change_a_document(content):
    tree = json.loads(gzip.decompress(content))
    tree["corpus"]["train"][0] = "changed"
    return gzip.compress(json.dumps(tree).encode())


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"plain text",
        lambda content: content[:20] + bytes([content[20] ^ 255]) + content[21:],
        lambda content: gzip.compress(b'{"format": "another"}'),
        lambda content: gzip.compress(b"[]"),
        _change_a_document,
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path, damage):
    path = tmp_path / "corpus.json.gz"
    write(make(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorpusError, match=r"corpus\.json\.gz: .*make it again") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.fixture
def little_room(monkeypatch):
    monkeypatch.setattr(corpus_module, "_ALWAYS_READ_BYTES", 1000)


@pytest.mark.usefixtures("little_room")
def test_a_small_file_that_expands_without_end_is_refused_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(bytes(50_000_000)))  # 49 kB
    tracemalloc.start()
    try:
        with pytest.raises(CorpusError, match=r"bomb\.json\.gz: not a corpus file: expands to more than"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("little_room")
def test_what_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(CorpusError, match="its documents repeat one another"):
        write(make(train=["a" * 100_000]), tmp_path / "corpus.json.gz")
    assert not list(tmp_path.iterdir())
    lines = [f"title number {number} about nothing" for number in range(3000)]
    write(make(train=lines), tmp_path / "corpus.json.gz")
    assert read(tmp_path / "corpus.json.gz").train == tuple(lines)


def test_a_missing_corpus_file_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="cannot be read: No such file"):
        read(tmp_path / "none")


@pytest.mark.skipif(
    "HPTUNE_TEST_TITLES" not in os.environ, reason="HPTUNE_TEST_TITLES does not name a file of real titles"
)
def test_real_titles_are_all_used(tmp_path):
    path = Path(os.environ["HPTUNE_TEST_TITLES"])
    lines = {line.strip() for line in path.read_text(encoding="utf-8").split("\n")} - {""}
    corpus = build(DataConfig(source="file", path=str(path), num_documents=10**9), cache=tmp_path)
    assert {*corpus.train, *corpus.validation, *corpus.held_out} == lines
