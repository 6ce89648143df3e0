"""Strict YAML: what the file says, where it says it, and one-line faults.

Numbers follow YAML 1.2 (`1e-3` is a number, `yes` is a string), a key given twice is an error, and tags,
anchors and aliases are refused. The tree keeps the place of every key, so that a fault found by a schema
reads `file:line: key.path: what is wrong, given ..., allowed ...`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from model.errors import ConfigError

KeyPath = tuple[str | int, ...]

_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]{1,1000}\Z")  # int() itself refuses more than 4300 digits
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")


@dataclass(frozen=True)
class Document:
    """A YAML tree of plain dicts, lists and scalars, with the place (`file:line`) of every key."""

    name: str
    tree: dict[str, Any]
    places: Mapping[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """The place of the key at `path`, or of its nearest ancestor that stands in a file."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, self.name)

    def with_overrides(
        self, overrides: Mapping[str, Any], places: Mapping[str, str] | None = None
    ) -> "Document":
        """A copy in which each dotted key has its new value; `places` says where each override was given."""
        tree, new_places = dict(self.tree), dict(self.places)
        for dotted, value in overrides.items():
            keys = tuple(dotted.split("."))
            node = tree
            place = (places or {}).get(dotted, "override")
            for depth, key in enumerate(keys[:-1], start=1):
                inside = node.get(key)
                if not isinstance(inside, dict):
                    inside = {}
                    new_places[keys[:depth]] = place
                # what lies on the way is copied, the rest shared: a design of 6,000 cells does this 6,000 times
                node[key] = dict(inside)
                node = node[key]
            node[keys[-1]] = value
            new_places = {p: place for p, place in new_places.items() if p[: len(keys)] != keys}
            new_places[keys] = place
        return Document(self.name, tree, new_places)


class _Loader(yaml.SafeLoader):
    """Composes nodes only; scalars are resolved by `_scalar`."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        problem = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problem = "anchors and aliases are not supported"
        elif getattr(event, "tag", None):
            problem = f"tags are not supported, given {event.tag}"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def read(path: str | Path) -> Document:
    """The document in the file `path`.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8, empty, not a mapping, or not strict YAML.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(text, name=str(path))


def parse(text: str, *, name: str) -> Document:
    """The document in `text`; `name` stands for the file in messages. Raises ConfigError as `read` does."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        places: dict[KeyPath, str] = {}
        tree = None if node is None else _construct(node, (), name, places)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: must be a mapping of keys to values, is {_kind(tree)}")
    return Document(name, tree, places)


def parse_value(text: str) -> Any:
    """One YAML value, as given on a command line (`3`, `1e-3`, `[64, 128]`, `word`)."""
    name = f"value {text!r}"
    tree = parse(f"value: {text}", name=name).tree
    if len(tree) > 1:
        raise ConfigError(f"{name}: must be one value on one line")
    return tree["value"]


def written(value: Any) -> str:
    """One value on one line, as `parse_value` reads it back."""
    if isinstance(value, str):
        try:
            if parse_value(value) == value:
                return value
        except ConfigError:
            pass
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` pairs of a command line by dotted key, values read as YAML.

    Raises:
        ConfigError: a pair has no `=`, a key comes twice, or a value is not YAML.
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {pair}: must be KEY=VALUE, such as --set training.epochs=2")
        if key in overrides:
            raise ConfigError(f"--set {key}: given twice")
        overrides[key] = parse_value(value)
    return overrides


def _construct(node: yaml.Node, path: KeyPath, name: str, places: dict[KeyPath, str]) -> Any:
    line = node.start_mark.line + 1
    places.setdefault(path, f"{name}:{line}")
    if isinstance(node, yaml.SequenceNode):
        return [_construct(child, (*path, i), name, places) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            key = key_node.value
            if not isinstance(key, str):
                raise ConfigError(f"{name}:{key_line}: {dotted(path)}: a key must be a plain word")
            if key in result:
                first = places[(*path, key)]
                raise ConfigError(f"{name}:{key_line}: {dotted((*path, key))}: given twice, first at {first}")
            places[(*path, key)] = f"{name}:{key_line}"
            result[key] = _construct(value_node, (*path, key), name, places)
        return result
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    text: str = node.value
    if getattr(node, "style", None) in ("'", '"', "|", ">"):
        return text
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    return text


def dotted(path: KeyPath) -> str:
    """A path as it is written in messages and overrides."""
    return ".".join(map(str, path)) or "(top level)"


def _kind(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"
