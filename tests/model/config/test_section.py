import math
from typing import Annotated, Literal

import pydantic
import pytest
from pydantic import Field

from model.config.section import Section, meant, validate
from model.config.yaml_tree import Document, parse
from model.errors import ConfigError, notes_of


class Circle(Section):
    kind: Literal["circle"]
    radius: float = Field(gt=0)


class Square(Section):
    kind: Literal["square"]
    side: int = 1


class Drawing(Section):
    title: str = "none"
    scale: float = 1.0
    size: tuple[int, int] = (1, 1)
    style: Literal["plain", "fine"] = "plain"
    shapes: dict[str, Annotated[Circle | Square, Field(discriminator="kind")]] = Field(default_factory=dict)
    parts: tuple[Square, ...] = ()
    main: Circle | None = None
    alias_field: int = Field(0, alias="list")


def drawing(text: str) -> Drawing:
    return validate(parse(text, name="f"), Drawing)


def test_lists_stand_for_tuples_and_integers_for_floats():
    assert drawing("scale: 2\nsize: [3, 4]\nlist: 5") == Drawing(scale=2.0, size=(3, 4), list=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("titel: x", "f:1: titel: unknown key, did you mean 'title'?"),
        ("qqq: x", "f:1: qqq: unknown key, allowed: list, main, parts, scale, shapes, size, style, title"),
        ("scale: true", "f:1: scale: must be a number, given true"),
        ("size: 3", "f:1: size: must be a list in brackets, given 3"),
        ("size: [1, 1.5]", "f:1: size.1: must be an integer, given 1.5"),
        (
            "size: [1, 2.0e+3]",
            "f:1: size.1: must be an integer written without a point or an exponent, given 2000.0",
        ),
        ("main: 3", "f:1: main: must be a section with keys of its own (kind, radius), given 3"),
        ("style: bold", "f:1: style: given \"bold\", allowed: 'plain', 'fine'"),
        ("main:\n  kind: circle", "f:1: main.radius: missing key"),
        ("main:\n  kind: circle\n  radius: 0", "f:3: main.radius: must be greater than 0, given 0"),
        ("main: {kind: circle, radius: 1, rad: 2}", "f:1: main.rad: unknown key, did you mean 'radius'?"),
        ("shapes:\n  a: {kind: cube}", "f:2: shapes.a: kind: given \"cube\", allowed: 'circle', 'square'"),
        ("shapes:\n  a: {side: 1}", "f:2: shapes.a: missing key 'kind', given {\"side\": 1}"),
        ("shapes:\n  a: {kind: circle}", "f:2: shapes.a.radius: missing key"),
        (
            "shapes:\n  a:\n    kind: square\n    sid: 1",
            "f:4: shapes.a.sid: unknown key, did you mean 'side'?",
        ),
        # `side` is the other branch's: it must not be suggested
        (
            "shapes:\n  a: {kind: circle, radius: 1, ssssside: 1}",
            "f:2: shapes.a.ssssside: unknown key, allowed: kind, radius",
        ),
        ("parts:\n  - {kind: square, sidd: 1}", "f:2: parts.0.sidd: unknown key, did you mean 'side'?"),
    ],
)
def test_a_fault_names_place_key_value_and_what_is_allowed(text, message):
    with pytest.raises(ConfigError) as caught:
        drawing(text)
    assert str(caught.value) == message


def test_further_faults_are_notes_of_the_first():
    with pytest.raises(ConfigError) as caught:
        drawing("titel: 1\ntitle: 5\nstyle: bold")
    assert str(caught.value) == "f:2: title: must be a string, given 5"
    assert notes_of(caught.value) == (
        "f:3: style: given \"bold\", allowed: 'plain', 'fine'",
        "f:1: titel: unknown key, did you mean 'title'?",
    )


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("learning_rate", "lr"),
        ("wd", "weight_decay"),
        ("mommentum", "momentum"),
        ("n", None),  # initials are of several words
        ("batch_size", None),
    ],
)
def test_a_key_is_meant_by_its_initials_or_its_spelling(given, key):
    assert meant(given, ["lr", "momentum", "name", "weight_decay"]) == key


class Budget(Section):
    tokens: int | None = None
    steps: int | None = None

    @pydantic.model_validator(mode="after")
    def _one_of_them(self) -> "Budget":
        if self.tokens and self.steps:
            raise ValueError(f"tokens {self.tokens} and steps {self.steps} are two budgets")
        return self


class Training(Section):
    budget: Budget


def test_a_fault_between_keys_is_where_one_was_given_in_place_of_the_files_own():
    document = parse("budget:\n  tokens: 1\n", name="base.yaml")
    both = document.with_overrides({"budget.steps": 2}, {"budget.steps": "study.yaml:7"})
    with pytest.raises(ConfigError, match=r"^study\.yaml:7: budget: tokens 1 and steps 2 are two budgets$"):
        validate(both, Training)
    with pytest.raises(ConfigError, match=r"^base\.yaml:1: budget: "):
        validate(parse("budget: {tokens: 1, steps: 2}", name="base.yaml"), Training)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(ConfigError, match="scale: must be a finite number"):
        validate(Document("f", {"scale": value}), Drawing)


def test_a_number_too_large_for_a_float_is_refused():
    with pytest.raises(ConfigError, match="f:1: scale: must be a finite number"):
        drawing("scale: 1e999")
