import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from model.config.yaml_tree import Document, parse, parse_value, read, written
from model.errors import ConfigError

SCALARS = [
    ("1", 1),
    ("-7", -7),
    ("+3", 3),
    ("1.5", 1.5),
    ("1e-3", 1e-3),
    ("1E5", 1e5),
    (".5", 0.5),
    ("2.", 2.0),
    ("true", True),
    ("False", False),
    ("null", None),
    ("~", None),
    ("", None),
    ("yes", "yes"),
    ("off", "off"),
    ("0o17", "0o17"),
    ("1_000", "1_000"),
    ("12:30", "12:30"),
    ("2024-01-01", "2024-01-01"),
    ('"1"', "1"),
    ("'true'", "true"),
    ("word", "word"),
    ("9" * 5000, math.inf),
]


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=lambda x: repr(x)[:12])
def test_scalars_follow_yaml_1_2(text, value):
    found = parse(f"key: {text}", name="f").tree["key"]
    assert found == value
    assert type(found) is type(value)


KEYS = st.text(max_size=100)  # escaped, below the 1,024 characters that YAML allows a key on one line
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, JSON, min_size=1, max_size=4))
def test_json_is_read_as_it_was_written(tree):
    # JSON with ASCII escapes is a part of YAML 1.2, except for two escapes of the astral planes.
    text = json.dumps(tree)
    if "\\ud" not in text:
        assert parse(text, name="f").tree == tree


def outcome(text: str) -> dict | str:
    try:
        return parse(text, name="file").tree
    except ConfigError as error:
        return str(error)


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!#\"'\n ,1e?|>%@`"), max_size=30))
def test_any_text_is_a_document_or_a_one_line_error(text):
    found = outcome(text)
    if isinstance(found, str):
        assert found.startswith("file")
        assert "\n" not in found
    else:
        # what the strict reader takes, PyYAML takes for a mapping with as many keys too
        assert len(yaml.compose(text).value) == len(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 2\n  c: 3\n", "f:4: b.c: given twice, first at f:3"),
        ("a: 1\nb: &x 2\n", "f:2: not valid YAML: anchors and aliases are not supported"),
        ("a: [1]\nb: *x\n", "f:2: not valid YAML: anchors and aliases are not supported"),
        ("a: !!str 5\n", "f:1: not valid YAML: tags are not supported, given tag:yaml.org,2002:str"),
        ("a: 1\n? [b]\n: 2\n", "f:2: (top level): a key must be a plain word"),
        ("", "f: must be a mapping of keys to values, is empty"),
        ("- 1\n", "f: must be a mapping of keys to values, is a list"),
        ("a: [" * 3000, "f: nested too deeply"),
    ],
)
def test_what_is_not_strict_is_refused_with_its_line(text, message):
    with pytest.raises(ConfigError) as caught:
        parse(text, name="f")
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["a: [1", "a: 1\n---\nb: 2\n", "a: \x00", "a: b: c"])
def test_what_is_not_yaml_is_refused(text):
    with pytest.raises(ConfigError, match=r"^f.*not valid YAML"):
        parse(text, name="f")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read: No such file"):
        read(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: not a text file in UTF-8"):
        read(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("1e-3", 1e-3), ("[64, 128]", [64, 128]), ("word", "word"), ("", None)]
)
def test_parse_value_reads_one_value(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize("text", ["a: b", "1\nother: 2", "[1"])
def test_parse_value_refuses_anything_else(text):
    with pytest.raises(ConfigError, match=r"^value '"):
        parse_value(text)


def test_overrides_leave_the_original_alone_and_know_their_place():
    document = parse("a:\n  b: 1\n  c: {d: 2}\ne: 3\n", name="f")
    changed = document.with_overrides({"a.b": 5, "a.c": [1, 2]}, {"a.b": "study:9"})
    assert document.tree == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert changed.tree == {"a": {"b": 5, "c": [1, 2]}, "e": 3}
    assert [changed.place(p) for p in (("a", "b"), ("a", "c"), ("a", "c", "d"), ("e",), ("a",))] == [
        "study:9",
        "override",
        "override",
        "f:4",
        "f:1",
    ]


def test_sections_that_an_override_makes_have_its_place():
    changed = parse("a: 1\n", name="f").with_overrides(
        {"new.b.c": 2, "a.x": 3}, {"new.b.c": "s:1", "a.x": "s:2"}
    )
    assert changed.tree == {"a": {"x": 3}, "new": {"b": {"c": 2}}}
    assert changed.place(("new",)) == changed.place(("new", "b")) == "s:1"
    assert changed.place(("a",)) == "s:2"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("file", "file"), ("titles.txt", "titles.txt"), ("1e-3", '"1e-3"'), ("null", '"null"'), ("a: b", '"a: b"'),
        ("", '""'), (" x", '" x"'), (0.001, "0.001"), (None, "null"), (True, "true"), ([0.9, "a"], '[0.9, "a"]'),
    ],
)  # fmt: skip
def test_a_value_is_written_as_plainly_as_it_can_be_read_back(value, text):
    assert written(value) == text
    assert parse_value(text) == value


KEYS = st.sampled_from(["a", "b", "c.d", "c.e", "f.g.h"])


@given(st.dictionaries(KEYS, st.integers()), st.dictionaries(KEYS, st.integers()))
def test_later_overrides_win(first, second):
    document = Document("f", {"a": 0})
    at_once = document.with_overrides({**first, **second})
    assert document.with_overrides(first).with_overrides(second).tree == at_once.tree
