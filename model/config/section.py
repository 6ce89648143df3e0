"""What the keys of a file may hold, and the line for each that says what is wrong with it.

A fault that pydantic finds becomes `file:line: key.path: what is wrong, given ..., allowed ...`.
"""

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import pydantic

from model.config.yaml_tree import Document, KeyPath, dotted
from model.errors import ConfigError, together

Schema = TypeVar("Schema", bound=pydantic.BaseModel)


class Section(pydantic.BaseModel):
    """A frozen, strict part of a configuration: unknown keys and wrong or non-finite values are errors."""

    model_config = pydantic.ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


def validate(document: Document, schema: type[Schema]) -> Schema:
    """The tree as an instance of `schema`.

    The tree goes in as JSON: pydantic's strict mode then takes lists for tuples and integers for floats,
    and still refuses `true` for a number and `1.5` for an integer.

    Raises:
        ConfigError: the first fault; further ones are its notes.
    """
    try:
        return schema.model_validate_json(json.dumps(document.tree))
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False)
        raise together([ConfigError(_describe(fault, document, schema)) for fault in faults]) from None


def _describe(fault: Any, document: Document, schema: type[pydantic.BaseModel]) -> str:
    path = _path_in_tree(fault["loc"], document.tree, fault["type"])
    kind, given, context = fault["type"], _shown(fault["input"]), fault.get("ctx", {})
    if kind == "extra_forbidden":
        known = sorted(_keys_at(schema, path[:-1], document.tree))
        near = meant(str(path[-1]), known)
        what = "unknown key" + (f", did you mean {near!r}?" if near else f", allowed: {', '.join(known)}")
    elif kind == "missing":
        what = "missing key"
    elif kind == "literal_error":
        what = f"given {given}, allowed: {context['expected'].replace(' or ', ', ')}"
    elif kind == "union_tag_invalid":
        tag = _shown(context["tag"])
        key = context["discriminator"].strip("'")
        what = f"{key}: given {tag}, allowed: {context['expected_tags']}"
    elif kind == "union_tag_not_found":
        what = f"missing key {context['discriminator']}, given {given}"
    elif kind == "value_error":
        what = str(context["error"])
    elif kind == "model_type":
        keys = ", ".join(sorted(_keys_at(schema, path, document.tree)))
        what = f"must be a section with keys of its own ({keys}), given {given}"
    else:
        message = (
            fault["msg"].replace("Input should be", "must be").replace("a valid array", "a list in brackets")
        )
        message = message.replace("a valid ", "a ")
        message = re.sub(r"\ba (?=[aeio])", "an ", message)
        if kind == "int_type" and isinstance(fault["input"], float) and fault["input"].is_integer():
            message += " written without a point or an exponent"
        what = f"{message}, given {given}"
    place = document.place(path)
    if kind == "value_error" and isinstance(fault["input"], dict):
        place = _place_of_named(document, path, fault["input"], what) or place
    return f"{place}: {dotted(path)}: {what}"


def meant(given: str, known: Sequence[str], elsewhere: Sequence[str] = ()) -> str | None:
    """The key that one which is not known was probably meant to be: by its initials, or by its spelling.

    `elsewhere` are keys of other sections, which initials alone may name.
    """
    by_initials = [key for key in (*known, *elsewhere) if _initials(given) == key or _initials(key) == given]
    near = by_initials or difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    return near[0] if near else None


def _initials(key: str) -> str:
    """`lr` of `learning_rate`; of one word nothing that a key could be."""
    return "".join(word[:1] for word in key.split("_")) if "_" in key else ""


def _place_of_named(document: Document, path: KeyPath, section: dict[str, Any], what: str) -> str | None:
    """Of a fault between the keys of a section: where one that it names was given in place of the file's own."""
    own = document.place(path).rpartition(":")[0]
    named = (document.place((*path, key)) for key in section if re.search(rf"\b{re.escape(key)}\b", what))
    return next((place for place in named if place.rpartition(":")[0] != own), None)


def _path_in_tree(location: tuple[str | int, ...], tree: Any, kind: str) -> KeyPath:
    """`location` without the names that pydantic adds for the branches of a union."""
    path: list[str | int] = []
    node = tree
    for i, part in enumerate(location):
        in_list = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if in_list or (isinstance(node, dict) and part in node):
            node = node[part]
        elif not (kind == "missing" and i == len(location) - 1):
            continue
        path.append(part)
    return tuple(path)


def _keys_at(schema: Any, path: KeyPath, tree: Any) -> set[str]:
    """The keys that `schema` allows at `path`, in the branch of a union that `tree` has chosen."""
    annotations = [schema]
    for part in path:
        annotations = [found for each in annotations for found in _below(each, part, tree)]
        tree = tree[part]
    # of what is no section where one should be, all
    section = tree if isinstance(tree, dict) else {}
    models = [model for each in annotations for model in _models(each, section)]
    return {info.alias or key for model in models for key, info in model.model_fields.items()}


def _below(annotation: Any, part: str | int, tree: Any) -> Iterator[Any]:
    """The annotations of what lies under key or index `part` of a value of type `annotation`."""
    for model in _models(annotation, tree):
        yield from (f.annotation for key, f in model.model_fields.items() if (f.alias or key) == part)
    for branch in _branches(annotation):
        if typing.get_origin(branch) in (dict, list, tuple):
            yield typing.get_args(branch)[1 if typing.get_origin(branch) is dict else 0]


def _models(annotation: Any, tree: Any) -> list[type[pydantic.BaseModel]]:
    """The sections that `annotation` allows; of several those whose literal fields do not contradict `tree`."""
    allowed = [
        branch
        for branch in _branches(annotation)
        if isinstance(tree, dict) and isinstance(branch, type) and issubclass(branch, pydantic.BaseModel)
    ]
    return allowed if len(allowed) == 1 else [model for model in allowed if _fits(model, tree)]


def _fits(model: type[pydantic.BaseModel], tree: dict[str, Any]) -> bool:
    literals = {
        info.alias or key: typing.get_args(info.annotation)
        for key, info in model.model_fields.items()
        if typing.get_origin(info.annotation) is typing.Literal
    }
    return all(tree.get(key, allowed[0]) in allowed for key, allowed in literals.items())


def _branches(annotation: Any) -> Iterator[Any]:
    """The members of a union, without what `Annotated` adds; of anything else, itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        yield from _branches(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _branches(argument)
    else:
        yield annotation


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
