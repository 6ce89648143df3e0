import json
import socket
from http.server import BaseHTTPRequestHandler

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.config import HubConfig
from model.documents import HubUnreachableError, read_file, read_hub
from model.errors import CorpusError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def refusal(path, column=None):
    with pytest.raises(CorpusError) as caught:
        read_file(path, column=column)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_text_is_one_document_a_line(tmp_path):
    path = write(tmp_path / "a.txt", "\ufeffone\r\ntwo \u2028 still two\n\nthree\x0b")
    assert [line.strip() for line in read_file(path, column=None)] == [
        "one",
        "two \u2028 still two",
        "",
        "three",
    ]


def test_csv_keeps_quoted_newlines_and_commas(tmp_path):
    path = write(tmp_path / "a.csv", '\ufeffid,title\n1,"a, ""b""\nc"\n2,\n\n3,é\n')
    assert read_file(path, column="title") == ['a, "b"\nc', "", "é"]
    assert read_file(path, column="id") == ["1", "2", "3"]


def test_jsonl_takes_the_named_key_and_null_as_empty(tmp_path):
    records = [{"n": 1, "title": "a\nb"}, {"n": 2, "title": None}, {"n": 3, "title": "日本 😀"}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records)) + "\n\n")
    assert read_file(path, column="title") == ["a\nb", "", "日本 😀"]
    assert read_file(path, column=None) == ["a\nb", "", "日本 😀"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_takes_every_kind_of_text_column(tmp_path, kind):
    path = parquet(tmp_path / "a.parquet", score=[1, 2, 3], title=pa.array(["a", None, "a\nb"], kind))
    assert read_file(path, column=None) == ["a", "", "a\nb"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "title,url\nx,y\n"), ("a.jsonl", '{"title": "x", "score": 3, "url": null}')],
)
def test_several_text_columns_need_a_choice(tmp_path, name, content):
    path = write(tmp_path / name, content)
    assert "given null, allowed: title, url" in refusal(path)
    assert "given 'titel', allowed: title, url" in refusal(path, "titel")


def test_a_parquet_column_of_numbers_is_refused_and_text_columns_are_named(tmp_path):
    path = parquet(tmp_path / "a.parquet", score=[1], title=["a"], url=["b"])
    assert "given 'score', allowed: title, url" in refusal(path, "score")
    assert "no text column" in refusal(parquet(tmp_path / "b.parquet", score=[1]))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"good\n\xff\xfe bad\n", ":2: not text in UTF-8, byte 0xff"),
        ("a.txt", b"\xef\xbb\xbfgood\ngood\n\xe9 bad\n", ":3: not text in UTF-8, byte 0xe9"),
        ("a.txt", b"good\ngood\n\x00\x01\n", ":3: holds a zero byte"),
        ("a.csv", b"title\nx\xff\n", ":2: not text in UTF-8"),
        ("a.csv", b"", "allowed: none"),
        ("a.csv", b'title\n"x\n', ":2: not valid CSV"),
        ("a.csv", b"a,title\n1,2\n1\n", ":3: must have 2 cells like the header, has 1"),
        ("a.jsonl", b'{"title": "x"}\n{"title": \n', ":2: not valid JSON"),
        ("a.jsonl", b"[1]", ":1: must be a JSON object, is a list"),
        ("a.jsonl", b'{"title": "x"}\n\n{"titel": "x"}', ":3: has no key 'title', it has: titel"),
        ("a.jsonl", b'{"title": "x"}\n{"title": 5}', ":2: 'title' must be text, given 5"),
        ("a.jsonl", b'{"title": "\\ud800"}', ":1: 'title' holds half of a surrogate pair"),
        ("a.parquet", b"PAR1 no", "not a valid parquet file"),
        ("a.parquet", b"", "not a valid parquet file"),
        ("a.xml", b"<a/>", "unknown suffix '.xml', allowed: .txt, .csv, .jsonl, .parquet"),
    ],
)
def test_a_fault_is_one_line_with_its_place(tmp_path, name, content, expected):
    path = write(tmp_path / name, content)
    assert expected in refusal(path, "title" if b"a,title" in content else None)


def test_missing_files_and_directories_are_refused(tmp_path):
    assert "cannot be read: No such file" in refusal(tmp_path / "none.txt")
    assert "cannot be read: No such file" in refusal(tmp_path / "none.parquet")
    assert "is a directory" in refusal(tmp_path)


def test_a_column_of_a_text_file_would_have_no_effect(tmp_path):
    assert "data.column must be null" in refusal(write(tmp_path / "a.txt", "x"), "title")


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folder_of_data_files_loads_as_a_dataset(tmp_path, kind):
    folder = tmp_path / "clone"
    folder.mkdir()
    if kind == "csv":
        write(folder / "train.csv", "id,title\n1,first\n2,\n3,third\n")
    else:
        parquet(folder / "train.parquet", id=[1, 2, 3], title=["first", None, "third"])
    documents, source = read_hub(HubConfig(id=str(folder)))
    assert documents == ["first", "", "third"]
    assert source == f"folder {folder}"
    with pytest.raises(CorpusError, match=r"data\.hub\.column must be .* given 'text', allowed: title$"):
        read_hub(HubConfig(id=str(folder), column="text"))
    with pytest.raises(CorpusError, match=r"split test: cannot be loaded: .*train") as caught:
        read_hub(HubConfig(id=str(folder), split="test"))
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, HubUnreachableError)


@pytest.fixture
def two_subsets(tmp_path, datasets_cache):
    """A local clone of a repository with two datasets, the second one in three files."""
    files = {
        "a/train.parquet": [f"a{i}" for i in range(30)],
        "b/train-0.parquet": [None] * 20,
        "b/train-1.parquet": [f"b{i}" for i in range(20)],
        "b/train-2.parquet": ["last"],
    }
    for name, texts in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        parquet(tmp_path / name, id=list(range(len(texts))), text=pa.array(texts, pa.string()))
    sections = "".join(f"- config_name: {name}\n  data_files: {name[-1]}/*\n" for name in ("set-a", "set-b"))
    write(tmp_path / "README.md", f"---\nconfigs:\n{sections}---\n")
    return tmp_path


def test_one_of_several_datasets_is_taken_by_name(two_subsets):
    hub = HubConfig(id=str(two_subsets), subset="set-a", column="text")
    documents, source = read_hub(hub)
    assert documents == [f"a{i}" for i in range(30)]
    assert source == f"folder {two_subsets} (set-a)"
    assert read_hub(hub.model_copy(update={"subset": "set-b"}))[0][20:] == [
        *(f"b{i}" for i in range(20)),
        "last",
    ]


@pytest.mark.parametrize("first_rows", [None, 10])
@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (None, r"Config name is missing.*'set-a', 'set-b'"),
        ("set-c", r"\(set-c\).*Available.*'set-a', 'set-b'"),
    ],
)
def test_a_subset_that_is_none_is_refused_with_those_there_are(two_subsets, subset, expected, first_rows):
    with pytest.raises(CorpusError, match=expected) as caught:
        read_hub(HubConfig(id=str(two_subsets), subset=subset, column="text", first_rows=first_rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("first_rows", "expected"), [(10, 10), (25, 25), (1000, 41)])
def test_the_first_rows_are_the_beginning_of_the_whole(two_subsets, first_rows, expected):
    hub = HubConfig(id=str(two_subsets), subset="set-b", column="text")
    whole, _ = read_hub(hub)
    documents, _ = read_hub(hub.model_copy(update={"first_rows": first_rows}))
    assert documents == whole[:expected]
    with pytest.raises(CorpusError, match=r"data\.hub\.column must be .* given 'id', allowed: text$"):
        read_hub(hub.model_copy(update={"first_rows": first_rows, "column": "id"}))


def test_the_rest_is_not_read(two_subsets):
    write(two_subsets / "b/train-2.parquet", "no parquet file")  # the library looks one file ahead
    hub = HubConfig(id=str(two_subsets), subset="set-b", column="text", first_rows=15)
    assert read_hub(hub)[0] == [""] * 15
    with pytest.raises(CorpusError, match=r"split train: cannot be loaded: "):
        read_hub(hub.model_copy(update={"first_rows": 41}))


class _FakeHub(BaseHTTPRequestHandler):
    """Answers every question for a dataset with the server's `status` and `error_code`."""

    def do_GET(self):
        body = b"{}"
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        if self.server.error_code:
            self.send_header("X-Error-Code", self.server.error_code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def fake_hub(serve_hub):
    return serve_hub(_FakeHub)


@pytest.mark.parametrize(
    ("status", "error_code", "expected"),
    [
        (404, "RepoNotFound", r"^data\.hub\.id: the hub has no public dataset 'some/titles'$"),
        (404, "RevisionNotFound", r"^data\.hub\.revision: some/titles has no revision 'v9'$"),
        (403, "GatedRepo", r"^data\.hub\.id: some/titles asks for its terms"),
    ],
)
def test_what_the_hub_refuses_is_the_users_to_correct(fake_hub, status, error_code, expected):
    fake_hub.status, fake_hub.error_code = status, error_code
    with pytest.raises(CorpusError, match=expected) as caught:
        read_hub(HubConfig(id="some/titles", revision="v9"))
    assert not isinstance(caught.value, HubUnreachableError)


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_proxy_or_a_broken_hub_counts_as_unreachable(fake_hub, status):
    fake_hub.status, fake_hub.error_code = status, None
    with pytest.raises(HubUnreachableError, match=str(status)):
        read_hub(HubConfig(id="some/titles"))


def test_a_name_that_is_none_is_refused_before_any_request():
    with pytest.raises(CorpusError, match=r"data\.hub\.id: not a dataset's name, given 'a/b/c'"):
        read_hub(HubConfig(id="a/b/c"))


def test_a_hub_that_never_answers_is_given_up(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(HubUnreachableError, match=r"timed out.*allowed without it: data\.source file"):
            read_hub(HubConfig(), timeout_seconds=0.2)
