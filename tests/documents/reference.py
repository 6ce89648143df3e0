"""The pages of `docs/reference`, made from the schemas, from `--help` and from the files that explain settings.

`python -m tests.documents.reference` writes them; a test compares.
"""

import ast
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import annotated_types
import click
import pydantic
from pydantic.fields import FieldInfo

import service.settings
from model.__main__ import main as model_command
from model.config.train_config import TrainConfig
from service.__main__ import cli
from service.study import parameters, pruners, samplers
from service.study.design import DesignConfig
from service.study.file import StopConfig, StudyConfig
from service.study.own_run import BudgetConfig
from service.study.scale import ScaleConfig
from service.study.spend import SpendConfig

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
COMMAND = "python -m tests.documents.reference"
WIDTH = 100
"""Columns of `--help` on the page."""


@functools.cache
def pages() -> dict[str, str]:
    """Every page by its file's name."""
    return {
        "train_config.md": _train_config(),
        "study.md": _study(),
        "settings.md": _settings(),
        "commands.md": _commands(),
    }


def _head(title: str, text: str) -> str:
    return f"<!-- Made by `{COMMAND}`: change what it is made from. -->\n\n# {title}\n\n{text}\n"


def _train_config() -> str:
    text = """One complete training run. The file `train_config.yaml` has every key with its default. A study changes
keys of it under `fixed`, `space` and `design`, the command line by `--set KEY=VALUE`: always by the dotted name that
stands here.

An unknown key, a value that is not allowed, and a key that would have no effect are errors. `null` stands for "not
given"."""
    return _head("train_config.yaml", text) + "".join(_sections(TrainConfig, "", TrainConfig()))


def _sections(schema: type[pydantic.BaseModel], prefix: str, default: pydantic.BaseModel) -> Iterator[str]:
    """The keys of a section, then those of the sections in it."""
    if prefix:
        yield f"\n## {prefix.rstrip('.')}\n\n{_first_paragraph(schema)}\n"
    inner = {name for name, value in default if isinstance(value, pydantic.BaseModel)}
    yield "\n" + _keys(schema, prefix=prefix, default=default, without=inner)
    for name in schema.model_fields:
        if name in inner:
            yield from _sections(type(getattr(default, name)), f"{prefix}{name}.", getattr(default, name))


def _study() -> str:
    text = """The file `studies/NAME/study.yaml`. [Studies](../studies.md) explains what it can ask, with examples."""
    parts = [_head("study.yaml", text), "\n", _keys(StudyConfig)]
    space = "Each key is the dotted name of a key of the base file; its value is one of these."
    parts.append(f"\n## space\n\n{space}\n")
    for parameter in typing.get_args(parameters.Parameter):
        parts.append(_variant(parameter, "type"))
    parts.append(f"\n## budget\n\n{_first_paragraph(BudgetConfig)}\n\n{_keys(BudgetConfig)}")
    parts.append(f"\n## spend\n\n{_first_paragraph(SpendConfig)}\n\n{_keys(SpendConfig)}")
    parts.append(f"\n## design\n\n{_first_paragraph(DesignConfig)}\n\n{_keys(DesignConfig)}")
    parts.append(f"\n## sampler\n\nHow a space is searched.\n{_variants(samplers.SamplerConfig)}")
    parts.append(f"\n## pruner\n\nWhen a trial is stopped early.\n{_variants(pruners.PrunerConfig)}")
    parts.append(f"\n## stop\n\n{_first_paragraph(StopConfig)}\n\n{_keys(StopConfig)}")
    scales = f"Each key is a name for `--scale`. {_first_paragraph(ScaleConfig)}"
    parts.append(f"\n## scales\n\n{scales}\n\n{_keys(ScaleConfig)}")
    return "".join(parts)


def _variants(union: Any) -> str:
    return "".join(_variant(schema, "name") for schema in typing.get_args(typing.get_args(union)[0]))


def _variant(schema: type[pydantic.BaseModel], tag: str) -> str:
    (name,) = typing.get_args(schema.model_fields[tag].annotation)
    keys = _keys(schema, without={tag})
    return f"\n### {tag}: {name}\n\n{_first_paragraph(schema)}\n" + (f"\n{keys}" if keys else "")


def _keys(
    schema: type[pydantic.BaseModel],
    *,
    prefix: str = "",
    default: pydantic.BaseModel | None = None,
    without: Collection[str] = (),
) -> str:
    """An entry for each key: its name, default, what is allowed, and what it means."""
    meanings, entries = _meanings(schema), []
    for name, field in schema.model_fields.items():
        if name not in without:
            assert meanings[name], f"{schema.__name__}.{name}: a docstring below says what it means"
            value = _default(field) if default is None else f"default `{_yaml(getattr(default, name))}`"
            about = "; ".join(filter(None, [_allowed(field), value]))
            entries.append(_entry(f"{prefix}{field.alias or name}", about, meanings[name]))
    return "\n".join(entries)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == {}:
        return ""
    return f"default `{value.name if isinstance(value, pydantic.BaseModel) else _yaml(value)}`"


def _entry(name: str, about: str, meaning: str) -> str:
    lines = textwrap.wrap(meaning, 116, break_long_words=False, break_on_hyphens=False)
    return f"-   **`{name}`**: {about}\n\n" + "".join(f"    {line}\n" for line in lines)


def _settings() -> str:
    text = """Settings are variables of the environment: where things are, and what a machine offers. None is needed.
`export NAME=VALUE` sets one for a shell; in containers they stand in a file `.env`."""
    documented = service.settings.__doc__
    assert documented
    entries = []
    for name, meaning in re.findall(r"^`(\w+)`\s+(.*)$", documented, re.MULTILINE):
        what, _, default = meaning.partition(" (default: ")
        entries.append(
            _entry(name, f"default {default.rstrip(')')}" if default else "not set", _sentence(what))
        )
    entries.append(
        _entry("HPTUNE_DASHBOARD_PASSWORD", "not set", "What the dashboard asks for; the user is `hptune`.")
    )
    entries.append(_entry("HPTUNE_DASHBOARD_PASSWORD_FILE", "not set", "A file that holds it."))
    everywhere = "\n".join(entries)
    return f"""{_head("Settings", text)}
{everywhere}
`HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean to the Hugging Face hub's own library, and
the `AWS_*` variables what they mean to boto3. `PYTHON` names the Python that `./hptune.sh` makes its environment with.

## In containers

`.env.example` in full. A line that begins with `#` and a name is a setting with its default, or with an example where
it has none. Copy the file to `.env` and take the `#` away from what you change.

```sh
{(ROOT / ".env.example").read_text().rstrip()}
```
"""


def _commands() -> str:
    text = """What `--help` says. The project's own Python runs `python -m service`: `.venv/bin/python -m service`."""
    script = (ROOT / "hptune.sh").read_text()
    usage = re.search(r"^usage\(\) \{\n.*?<<'END'\n(.*?)\nEND\n", script, re.DOTALL | re.MULTILINE)
    assert usage, "hptune.sh says how it is used"
    parts = [_head("Commands", text), f"\n## ./hptune.sh\n\n```text\n{usage[1]}\n```\n"]
    parts.append(_help("python -m service", cli))
    for name, command in sorted(cli.commands.items()):
        if not command.hidden:
            parts.append(_help(f"python -m service {name}", command))
    parts.append(_help("python -m model", model_command))
    return "".join(parts)


def _help(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, max_content_width=WIDTH, terminal_width=WIDTH)
    return f"\n## {name}\n\n```text\n{command.get_help(context)}\n```\n"


def _meanings(schema: type[pydantic.BaseModel]) -> dict[str, str]:
    """What the docstring below each field says, on one line."""
    found: dict[str, str] = {}
    for each in reversed(schema.__mro__):
        if not issubclass(each, pydantic.BaseModel) or each is pydantic.BaseModel:
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                found.setdefault(field.target.id, "")
                if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                    found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _first_paragraph(schema: type[pydantic.BaseModel]) -> str:
    assert schema.__doc__
    return " ".join(schema.__doc__.partition("\n\n")[0].split())


def _allowed(field: FieldInfo) -> str:
    return _kind(field.annotation, field.metadata)


def _kind(annotation: Any, metadata: list[Any]) -> str:
    """What a value of this type can be, for people."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(
            arguments[0], [part for each in arguments[1:] for part in getattr(each, "metadata", [each])]
        )
    if origin in (typing.Union, types.UnionType):
        kinds = [_kind(each, metadata) for each in arguments if each is not type(None)]
        kinds = list(dict.fromkeys(kinds))
        return ", ".join(kinds) + (" or `null`" if type(None) in arguments else "")
    if origin is typing.Literal:
        return ", ".join(f"`{_yaml(value)}`" for value in arguments)
    if origin is tuple and Ellipsis in arguments:
        return "a list"
    if origin is tuple:
        return f"[{', '.join(_kind(each, []) for each in arguments)}]"
    if origin is dict:
        return "a mapping"
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return "a mapping (below)"
    if annotation in (int, float):
        kind = "a whole number" if annotation is int else "a number"
        return " ".join([kind, ", ".join(_bounds(metadata)).replace(", to ", " to ")]).rstrip()
    return {bool: "`true`, `false`", str: "text"}.get(annotation, "any value")


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for kind, word in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below")):
        for each in metadata:
            if isinstance(each, annotated_types.BaseMetadata) and hasattr(each, kind):
                limit = getattr(each, kind)
                yield f"{word} {limit:,}" if limit < 1e9 else f"{word} 2⁶⁴ - 1"


def _yaml(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def write(folder: Path = FOLDER) -> None:
    """Write every page into `folder`."""
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
