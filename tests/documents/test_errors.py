"""Every message that `docs/errors.md` quotes exists in the code."""

import ast
import re

import pytest

from model.config.section import validate
from model.config.train_config import TrainConfig
from model.config.yaml_tree import Document
from model.errors import ConfigError
from tests.documents.pages import ROOT, prose

HOLE = "…"
WRONG = ({"model.n_layer": 0}, {"model.dropout": 1.0}, {"optimizer.lr": "fast"})
"""Overrides that only pydantic has words for."""


def message(node: ast.expr) -> str | None:
    """A text of the code with a hole for each value in it; None where it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(message(part) or HOLE for part in node.values)
    return None


def normal(text: str) -> str:
    """Without what is not told apart: what stands in a hole, and how many holes follow one another."""
    text = re.sub(r"'?\{\w+\}'?", HOLE, " ".join(text.split()))
    return re.sub(rf"{HOLE}(?:[\s:]*{HOLE})*", HOLE, text)


def messages() -> list[str]:
    found = [
        message(node)
        for room in ("model", "service")
        for path in (ROOT / room).rglob("*.py")
        for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))  # a docstring
        for node in ast.iter_child_nodes(statement)
        if isinstance(node, ast.Constant | ast.JoinedStr)
    ]
    scripts = "".join(path.read_text() for path in (ROOT / "hptune.sh", *(ROOT / "docker").glob("*.sh")))
    found += re.sub(r"\$\w+|\$\{\w+\}", HOLE, re.sub(r"[\"'] *\\\n *[\"']", " ", scripts)).splitlines()
    return [normal(text) for text in (*filter(None, found), *map(of_the_schema, WRONG))]


def of_the_schema(overrides) -> str:
    """What pydantic says, as the project shows it."""
    with pytest.raises(ConfigError) as refused:
        validate(Document("file", {}).with_overrides(overrides), TrainConfig)
    return str(refused.value)


def quoted() -> list[str]:
    page = prose(ROOT / "docs" / "errors.md")
    texts = re.findall(r"\*\*(`+)(.*?)\1\*\*", page, re.DOTALL)
    return [" ".join(text.split()) for _, text in texts]


@pytest.fixture(scope="module")
def pool() -> list[str]:
    return messages()


def test_the_page_quotes_messages():
    assert len(quoted()) > 50


def pieces(text: str, pool: list[str]) -> list[str]:
    """`text` cut into the longest parts that stand in the code; empty where one does not."""
    found = []
    while text:
        length = next((n for n in range(len(text), 4, -1) if any(text[:n] in said for said in pool)), 0)
        if not length:
            return []
        found.append(text[:length])
        text = text[length:].lstrip(f"{HOLE};: ")
    return found


@pytest.mark.parametrize("text", quoted())
def test_a_quoted_message_is_in_the_code(pool, text):
    """In one text, or in a few that make it up: what is wrong, what was given, the way out."""
    assert 1 <= len(pieces(normal(text).strip(f"{HOLE}: "), pool)) <= 4, (
        f"docs/errors.md: no such message: {text}"
    )


def test_a_message_that_nothing_says_is_found_out(pool):
    for text in ("study … is not at home; there are: …", "the storage is asleep (…)"):
        assert pieces(normal(text), pool) == []
