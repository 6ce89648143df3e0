"""All that is wrong with a study file at once: what stops the reading of its form, and what would stop it later."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from model.config.yaml_tree import Document, read
from model.errors import ConfigError, together
from service.study.base import Base
from service.study.file import StudyConfig, found_in, from_here
from service.study.proof import faults_of_keys


@contextlib.contextmanager
def told_together(document: Document, overrides: Mapping[str, object], root: Path) -> Iterator[None]:
    """Give a ConfigError of a study file, raised within, the faults that its reading had not come to as its notes."""
    try:
        yield
    except ConfigError as error:
        raise together([error, *_faults(document, overrides, root)]) from None


def _faults(document: Document, overrides: Mapping[str, object], root: Path) -> list[ConfigError]:
    """Of the fixed values and of the keys of the space, as far as the file's form lets them be read.

    Nothing of a study with training code of the user's, which is not to be imported twice.
    """
    tree = document.tree
    name = tree.get("base", StudyConfig.model_fields["base"].default)
    if tree.get("run") is not None or not isinstance(name, str):
        return []
    try:
        file = read(from_here(found_in(root, name)))
        base = Base.of(file)
    except ConfigError:
        return []  # it is the error already
    fixed, space = (found if isinstance(found := tree.get(key), dict) else {} for key in ("fixed", "space"))
    faults = faults_of_keys({key: document.place(("space", key)) for key in space}, base)
    places = {key: document.place(("fixed", key)) for key in fixed} | dict.fromkeys(overrides, "command line")
    try:
        Base.of(file.with_overrides(fixed | dict(overrides), places))
    except ConfigError as fault:
        faults.append(fault)
    return faults


def refuse_idle(keys: Mapping[str, str]) -> None:
    """Refuse keys, each with its place, that are set for all trials and change nothing in any."""
    faults = []
    for key, place in keys.items():
        hint = "; it is read with data.source=file" if key in ("data.path", "data.column") else ""
        faults.append(ConfigError(f"{place}: {key}: has no effect in any trial of this study{hint}"))
    if faults:
        raise together(faults)
