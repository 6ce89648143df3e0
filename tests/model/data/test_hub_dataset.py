"""Datasets of a hub that works, and of one that does not."""

import os
import re
import socket
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.config.data import HubConfig
from model.data.hub_dataset import read_hub
from model.data.hub_requests import HubUnreachableError
from model.errors import CorpusError
from tests.conftest import ROOT
from tests.hub import TOKEN, Fault

TITLES = [f"title {i} of something small" for i in range(50)]


def add(hub, files, name="datasets/some/titles"):
    """Puts a repository with `files` into the hub: texts, or titles for a .parquet."""
    for path, content in files.items():
        target = hub.root / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            columns = {"id": range(len(content)), "title": pa.array(content, pa.string())}
            pq.write_table(pa.table(columns), target, compression="none", use_dictionary=False)
        else:
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
    hub.forget()


@pytest.fixture
def titles(hub):
    add(hub, {"data/train.parquet": TITLES})
    return hub


@pytest.fixture
def large(hub):
    """A dataset of one file of 3 MB, which the hub keeps in its file store."""
    texts = [f"{i} {'x' * 90}" for i in range(30_000)]
    add(hub, {"train.csv": "title\n" + "\n".join(texts)})
    return hub


class Reading:
    """What the tests ask for, and what was said."""

    def __init__(self, folder):
        self.cache = folder
        self.said = []

    def __call__(self, *, patience_seconds=60, read_seconds=20, **hub):
        limits = {"patience_seconds": patience_seconds, "read_seconds": read_seconds}
        config = HubConfig(**{"id": "some/titles", **hub})
        return read_hub(config, cache=self.cache, say=self.said.append, **limits)

    def refused(self, **arguments):
        with pytest.raises(CorpusError) as caught:
            self(**arguments)
        assert "\n" not in str(caught.value)
        assert not isinstance(caught.value, HubUnreachableError)
        return str(caught.value)


@pytest.fixture
def read(tmp_path):
    return Reading(tmp_path / "cache")


def test_what_is_recorded_is_the_commit_that_was_read(titles, read):
    documents, source = read()
    assert documents == TITLES
    assert source == f"hub some/titles at {titles.commit('datasets', 'some/titles')}"
    assert read.said[0] == f"asking {titles.url.removeprefix('http://')} for some/titles"


@pytest.mark.parametrize(
    "files",
    [
        {"train.csv": "id,title\n1,first\n2,\n3,third\n"},
        {"train.jsonl": '{"title": "first"}\n{"title": null}\n{"title": "third"}\n'},
        {"data/train-0.parquet": ["first", None], "data/train-1.parquet": ["third"], "data/test.csv": "x"},
        {
            "README.md": "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: 'a*'}\n---\n",
            "a-1.parquet": ["first", None],
            "a-2.parquet": ["third"],
            "b.parquet": ["no"],
        },
    ],
    ids=["csv", "jsonl", "shards", "described"],
)
def test_files_of_every_kind_are_read_and_only_those_of_the_split_are_fetched(hub, read, files):
    files.pop("data/test.csv", None)
    add(hub, files)
    assert read()[0] == ["first", "", "third"]
    assert not hub.files_asked("b.parquet")


def test_a_chunk_without_a_title_does_not_end_the_reading(hub, read):
    rows = [*TITLES, *[""] * 10_000, *["2048"] * 10_000]
    add(hub, {"train.csv": "id,title\n" + "".join(f"{i},{title}\n" for i, title in enumerate(rows))})
    assert read()[0] == rows


def test_a_newer_commit_that_cannot_be_fetched_is_not_replaced_by_an_older_one(titles, read):
    old = read()[1]
    add(titles, {"data/train.parquet": ["new", *TITLES]})
    titles.faults = [Fault("train.parquet", "status", status=403, times=99)]
    assert "answers 403" in read.refused()
    titles.faults = []
    documents, source = read()
    assert (documents[0], source == old) == ("new", False)


def test_a_pinned_revision_is_the_one_that_is_read(titles, read):
    add(titles, {"data/train.parquet": ["old", *TITLES]}, name="datasets/some/titles@v1")
    documents, source = read(revision="v1")
    assert documents[0] == "old"
    commit = source.split()[-1]
    assert commit != titles.commit("datasets", "some/titles")
    titles.asked.clear()
    assert read(revision=commit)[0] == documents
    assert titles.asked == []  # it cannot change, and is here
    assert read.refused(revision="v9") == "data.hub.revision v9: some/titles has no such revision on the hub"


def test_without_a_connection_each_revision_is_what_was_fetched_of_it(titles, read, no_connection):
    add(titles, {"data/train.parquet": ["old", *TITLES]}, name="datasets/some/titles@v1")
    newest, old = read(), read(revision="v1")
    no_connection()
    assert read() == newest
    assert read(revision="v1") == old
    assert "some/titles as it was fetched earlier" in read.said[-1]
    with pytest.raises(HubUnreachableError, match=r"allowed without it: data\.source file or docstrings$"):
        read(revision="v2")


def test_the_first_rows_come_without_the_rest(hub, read):
    rows = [f"{i} {'x' * 90}" for i in range(300_000)]
    add(hub, {"train.csv": "title\n" + "\n".join(rows)})
    assert read(first_rows=20)[0] == rows[:20]
    assert sum(asked.sent_bytes for asked in hub.asked) < 20_000_000
    assert hub.root.joinpath("datasets/some/titles/train.csv").stat().st_size > 27_000_000
    assert read(first_rows=10_050)[0] == rows[:10_050]


@pytest.mark.parametrize("first_rows", [None, 10])
@pytest.mark.parametrize("name", ["train.csv", "train.parquet", "train.jsonl"])
def test_a_wrong_column_is_refused_before_the_download(hub, read, name, first_rows):
    rows = [f"{i} {'x' * 90}" for i in range(150_000)]
    content = {
        "train.csv": "title\n" + "\n".join(rows),
        "train.parquet": rows,
        "train.jsonl": "".join(f'{{"title": "{row}"}}\n' for row in rows),
    }
    add(hub, {name: content[name]})
    message = read.refused(column="titel", first_rows=first_rows)
    assert message.endswith("data.hub.column must be a text column, given 'titel', allowed: title")
    size = (hub.root / "datasets/some/titles" / name).stat().st_size
    assert sum(asked.sent_bytes for asked in hub.asked) < size


def test_a_column_that_the_dataset_names_itself_is_not_looked_for(hub, read):
    described = "---\ndataset_info:\n  features:\n  - {name: title, dtype: string}\n---\n"
    add(hub, {"README.md": described, "data/train.parquet": ["x" * 2_000_000]})
    assert "allowed: title" in read.refused(column="titel")
    assert not hub.files_asked("train.parquet")


def test_a_transfer_that_breaks_off_goes_on_where_it_was(large, read):
    large.faults = [Fault("cdn/.*train.csv", "cut", sent_bytes=1_000_000, times=3)]
    assert len(read()[0]) == 30_000
    begins = [asked.headers.get("Range", "") for asked in large.asked if "/cdn/" in asked.path]
    assert begins[0] == ""
    assert all(int(begin.removeprefix("bytes=")[:-1]) > 1_000_000 for begin in begins[2:])
    assert sum(asked.sent_bytes for asked in large.asked if "/cdn/" in asked.path) < 3_500_000


def test_what_was_fetched_is_kept_for_the_next_call(large, read):
    large.faults = [
        Fault("cdn/.*train.csv", "cut", sent_bytes=1_000_000, times=1, method="GET"),
        Fault("cdn/", "status", status=503, times=99),
    ]
    message = read.refused(patience_seconds=2)
    assert "localhost answers 503" in message
    assert message.endswith("try later, what was fetched is kept")
    assert "SECRET" not in " ".join([message, *read.said])
    large.faults = []
    large.asked.clear()
    assert len(read()[0]) == 30_000


@pytest.mark.parametrize("path", ["/api/datasets/some/titles", "train.parquet"])
@pytest.mark.parametrize("status", [429, 503])
def test_the_hub_is_left_alone_as_long_as_it_asks(titles, read, path, status):
    titles.faults = [Fault(path, "status", status=status, headers={"Retry-After": "1"})]
    start = time.monotonic()
    assert read()[0] == TITLES
    assert time.monotonic() - start >= 1
    if path.startswith("/api"):
        assert any(re.search(f"answers {status} .*: trying again in 1.0 s$", line) for line in read.said)


def test_a_wait_longer_than_anybody_s_patience_is_refused_with_its_length(titles, read):
    titles.faults = [Fault("/api/", "status", status=429, headers={"Retry-After": "3600"}, times=99)]
    message = read.refused()
    assert "127.0.0.1 answers 429 Too Many Requests; 3,600 s more would be longer than the 60 s" in message


def test_a_window_of_requests_is_waited_for_until_it_ends(titles, read):
    limits = {"RateLimit": '"api";r=0;t=1'}
    titles.faults = [Fault("/api/", "status", status=429, headers=limits)]
    assert read()[0] == TITLES
    assert any(line.endswith("trying again in 1.0 s") for line in read.said)


def test_damaged_files_are_fetched_again_and_never_taken(large, read):
    large.faults = [Fault("cdn/.*train.csv", "corrupt", times=1)]
    documents, _ = read()
    assert documents[7] == f"7 {'x' * 90}"


def test_a_store_that_sends_damaged_files_is_given_up(titles, read, monkeypatch):
    add(titles, {"README.md": "---\n{}\n---\n"})
    titles.faults = [Fault("README.md", "corrupt", times=99)]
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert "sends is damaged, time and again; try later" in read.refused()


def test_a_dead_xet_store_is_not_asked(large, read):
    large.xet = True
    assert len(read()[0]) == 30_000
    assert not any("xet-read-token" in asked.path for asked in large.asked)


def test_a_file_store_behind_a_firewall_is_named(titles, read):
    with socket.socket() as reserved:  # bound and not listening
        reserved.bind(("127.0.0.2", 0))
        store = {"Location": f"http://127.0.0.2:{reserved.getsockname()[1]}/x?signature=SECRET"}
        titles.faults = [Fault("train.parquet", "status", status=302, headers=store, times=99)]
        message = read.refused(patience_seconds=0.6)
    assert "127.0.0.2 does not answer ([Errno 111] Connection refused)" in message
    assert "SECRET" not in message


def test_a_bad_token_is_named_and_a_good_one_opens_the_door(titles, read, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    message = read.refused()
    assert message.startswith("HF_TOKEN: the hub does not accept it (401), it may have expired")
    assert "hf_expired" not in message
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read()[0] == TITLES


def test_the_token_stays_at_the_hub(large, read, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    read()
    at_the_store = [asked for asked in large.asked if "/cdn/" in asked.path]
    assert at_the_store
    assert not any("Authorization" in asked.headers for asked in at_the_store)


def test_a_gated_dataset_asks_for_its_terms(titles, read, monkeypatch):
    (titles.root / "datasets/some/titles/.gated").touch()
    titles.forget()
    message = "data.hub.id: some/titles asks for its terms to be accepted first, on the hub, and HF_TOKEN"
    titles.faults = []
    assert message in read.refused()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read()[0] == TITLES


def test_what_is_not_there_is_the_users_to_correct(titles, read):
    assert "the hub has no public dataset 'some/other'; a private one needs HF_TOKEN" in read.refused(
        id="some/other"
    )
    assert "no split 'test', allowed: train" in read.refused(split="test")
    assert "must be the name of a dataset of the hub, given 'a/b/c'" in read.refused(id="a/b/c")
    assert "there is no folder ./nowhere" in read.refused(id="./nowhere")


def test_a_dataset_that_is_a_program_is_refused_in_one_line(hub, read):
    add(hub, {"titles.py": "print('run')"})
    assert "Dataset scripts are no longer supported" in read.refused()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HF_ENDPOINT", "http://[::1", "HF_ENDPOINT: not the address of a hub"),
        ("HF_ENDPOINT", "hub.example", "HF_ENDPOINT: not the address of a hub"),
        ("HF_TOKEN", "hf_schlüssel", "HF_TOKEN: holds characters that no token has"),
        ("HF_TOKEN", "hf_\x7f", "HF_TOKEN: holds characters that no token has"),
        ("HTTP_PROXY", "http://[::1", "HTTP_PROXY: no proxy that can be used ("),
        ("HTTP_PROXY", "socks9://u:s3cret@127.0.0.1:9", "HTTP_PROXY: no proxy that can be used ("),
    ],
)
def test_an_environment_that_no_request_can_be_made_with_is_named(
    titles, read, monkeypatch, name, value, expected
):
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "")
    message = read.refused()
    assert message.startswith(expected)
    assert "s3cret" not in message
    assert "schlüssel" not in message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HF_ENDPOINT", "http://[::1", "HF_ENDPOINT: not the address of a hub"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "soon", "HF_HUB_DOWNLOAD_TIMEOUT"),
    ],
)
def test_an_environment_that_the_hubs_library_cannot_be_imported_in_is_named(tmp_path, name, value, expected):
    program = """
import pathlib, sys
from model.config.data import HubConfig
from model.data.hub_dataset import read_hub
from model.errors import CorpusError
try:
    read_hub(HubConfig(id="some/titles"), cache=pathlib.Path(sys.argv[1]))
except CorpusError as error:
    print(error)
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=kept | {"HF_ENDPOINT": "http://127.0.0.1:1", "PYTHONPATH": str(ROOT), name: value},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr, ended.stdout.count("\n")) == (0, "", 1)
    assert expected in ended.stdout


def test_a_hub_that_goes_quiet_after_its_first_answer_is_told_of(titles, read):
    titles.faults = [Fault("train.parquet", "hang")]
    assert read(read_seconds=0.5)[0] == TITLES
    line, *_ = (line for line in read.said if "does not answer" in line)
    assert re.fullmatch(r"127\.0\.0\.1 does not answer \(.*timed out\): trying again in 0\.5 s", line)


def test_a_line_at_once_and_then_size_and_time_left(large, tmp_path):
    large.faults = [Fault("cdn/", "slow", bytes_per_second=1_000_000)]
    said = {}

    def say(line):
        said[line] = len(large.asked)

    read_hub(HubConfig(id="some/titles"), cache=tmp_path / "lists", say=say)
    first, second, third = list(said)[:3]
    assert first.startswith("asking 127.0.0.1:")
    assert said[first] == 0  # before the hub has been asked for anything
    assert second == "fetching some/titles: 1 file, 2.9 MB"
    assert re.fullmatch(r"fetching some/titles: \d\.\d MB of 2\.9 MB, [01]\.\d MB/s, \d+ s left", third)


@pytest.mark.parametrize("kind", ["silent", "refused"])
def test_no_connection_is_told_apart_from_every_answer(read, monkeypatch, no_connection, kind):
    if kind == "refused":
        no_connection()
        with pytest.raises(HubUnreachableError, match="cannot be reached"):
            read()
    else:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            with pytest.raises(
                HubUnreachableError, match=r"timed out.*allowed without it: data\.source file"
            ):
                read(read_seconds=0.2)
