import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.data.documents import read_file
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
        ("a.jsonl", b'{"title": "x"}\n{"n": ' + b"7" * 5_000 + b"}", ":2: holds a number of too many digits"),
        ("a.jsonl", b'{"title": "x"}\n' + b"[" * 200_000, ":2: not valid JSON: nested too deeply"),
        ("a.jsonl", b'{"a": ' * 200_000, ":1: not valid JSON: nested too deeply"),
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


def test_a_relative_path_is_said_to_be_taken_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(Path("none.txt")).endswith(f"; data.path is taken from {tmp_path} on")
    assert "data.path" not in refusal(tmp_path / "none.txt")


def test_a_column_of_a_text_file_would_have_no_effect(tmp_path):
    assert "data.column must be null" in refusal(write(tmp_path / "a.txt", "x"), "title")


def test_a_cell_may_be_as_long_as_the_file(tmp_path):
    long = "x" * 400_000
    path = write(tmp_path / "a.csv", f'title\nshort\n"{long}"\n')
    assert read_file(path, column=None) == ["short", long]


@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_lines_may_end_in_a_carriage_return_alone(tmp_path, suffix):
    lines = {"txt": ["a", "b"], "csv": ["title", "a", "b"], "jsonl": ['{"title": "a"}', '{"title": "b"}']}
    path = write(tmp_path / f"a.{suffix}", "\r".join(lines[suffix]))
    assert read_file(path, column=None) == ["a", "b"]


def test_a_carriage_return_inside_a_line_ends_no_line(tmp_path):
    assert read_file(write(tmp_path / "a.txt", "a\rb\nc"), column=None) == ["a\rb", "c"]


def test_parquet_text_that_is_not_utf_8_is_refused_with_its_row(tmp_path):
    values = pa.array([b"good", None, b"\xff\xfe"] * 3, pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(values), values.buffers())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"title": text}), path, row_group_size=2)
    assert refusal(path).endswith("row 3: not text in UTF-8, byte 0xff")


def test_parquet_columns_of_one_name_matter_only_where_one_of_them_is_meant(tmp_path):
    path = tmp_path / "a.parquet"
    columns = [pa.array(values) for values in (["a"], ["b"], [1], ["c"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["title", "title", "n", "url"]), path)
    assert refusal(path, "title").endswith("has 2 columns named 'title', must have one")
    assert "allowed: title, title, url" in refusal(path)


def test_parquet_reads_a_column_beside_two_of_one_name(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, names=["n", "n", "title"]), path)
    assert read_file(path, column="title") == ["a"]


def test_a_column_of_numbers_may_share_the_name_of_the_text(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([7]), pa.array(["a"])], names=["title", "title"]), path)
    assert read_file(path, column=None) == ["a"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("damage", ["cut", "flip", "zeros"])
def test_a_damaged_parquet_file_is_refused_in_one_line_or_read(tmp_path, share, damage):
    path = parquet(tmp_path / "a.parquet", title=[f"title {i}" for i in range(100)])
    content = bytearray(path.read_bytes())
    at = int(share * len(content))
    if damage == "cut":
        del content[at:]
    else:
        content[at : at + 8] = (
            bytes(8) if damage == "zeros" else (byte ^ 0xFF for byte in content[at : at + 8])
        )
    path.write_bytes(content)
    try:
        assert len(read_file(path, column=None)) == 100
    except CorpusError:
        refusal(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    assert "is a pipe or a device, data.path must be a file" in refusal(tmp_path / "a.txt")


@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_a_file_beyond_the_memory_is_refused_before_it_is_read(tmp_path, suffix):
    path = tmp_path / f"titles.{suffix}"
    path.touch()
    os.truncate(path, 2**43)  # 8.8 TB of holes
    with pytest.raises(
        CorpusError, match=r"titles\.\w+: reading 8,796\.1 GB takes about .* GB are free; give a part"
    ):
        read_file(path, column=None)
