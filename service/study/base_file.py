"""The base file of a study: where it is, of which kind of training run, and what a scale changes in it."""

import contextlib
from pathlib import Path

from model.config.train_config import TrainConfig
from model.config.yaml_tree import Document, KeyPath, read
from model.errors import ConfigError, UserError
from service.settings import HOME
from service.study.base import Base
from service.study.file import StudyConfig, found_in, from_here
from service.study.gpt import Gpt
from service.study.own_run import OwnRunKind, imported
from service.study.run_config import Kind
from service.study.search_space import SearchSpace


def read_base_file(study: StudyConfig, path: Path, root: Path) -> tuple[Document, Kind]:
    """The base file of the study in the file `path`, and how it is read; training code of the user's is imported.

    Raises:
        ConfigError: the file cannot be read.
        OwnCodeError: the user's code cannot be used.
    """
    kind = kind_of(study)
    if not isinstance(kind, OwnRunKind):
        return read(from_here(found_in(root, study.base))), kind
    file = read(from_here(own_base(study.base, path, root)))
    return file, imported(kind, folders_of(path), file)[1]


def own_base(name: str, study_file: Path | None, root: Path) -> Path:
    """The base file of the user's training code: beside the study's file, or else where that of any study is."""
    beside = study_file.parent / name if study_file else None
    return beside if beside is not None and beside.is_file() else found_in(root, name)


def kind_of(study: StudyConfig) -> Kind:
    """What the study trains; the user's code is not imported."""
    if study.run is None:
        return Gpt()
    assert study.budget is not None, "the schema asks for it"
    return OwnRunKind(study.run, study.budget, study.metric or "loss")


def code_folders(file: str | None) -> list[Path]:
    """`folders_of` the file that a study's definition names, which may have none."""
    return folders_of(found_in(HOME, file) if file else None)


def folders_of(file: Path | None) -> list[Path]:
    """Where the training code of a study in this file is looked for: beside it, and in the current folder."""
    found = [] if file is None else [file.absolute().parent]
    with contextlib.suppress(FileNotFoundError):  # the folder has been removed
        found.append(Path.cwd())
    return [*found, HOME]


def resized(
    study: StudyConfig, document: Document, file: Document, scale: str, kind: Kind
) -> tuple[Document, dict[str, str]]:
    """The base file at a scale, and the places of the keys that the scale sets for all trials."""
    if scale not in study.scales:
        there = ", ".join(study.scales) or "none"
        raise UserError(f"{document.name}: scale {scale!r} does not exist; there are: {there}")

    def place(path: KeyPath) -> str:
        return document.place(("scales", scale, *path))

    other = study.scales[scale]
    values = Base.of(file, kind).values
    other.check([cell.values for cell in study.design.cells()] if study.design else [], values, place)
    setting = {key: place(("set", key)) for key in other.values}
    mapping = {key: place(("map", key)) for key in other.replacements}
    resized_file = file.with_overrides(other.base_values(values), setting | mapping)
    return resized_file, setting if study.design else setting | mapping


def decays(base: Base, space: SearchSpace) -> set[str]:
    """The learning rate schedules of the built-in GPT that a trial may have."""
    if not isinstance(base.config, TrainConfig):
        return set()
    varied = space.parameters.get("schedule.decay")
    return {base.config.schedule.decay, *(varied.corners() if varied else ())}


def refuse_seen_validation(base: Base, space: SearchSpace, name: str) -> None:
    """Refuse a tokenizer trained on the validation titles, which makes the losses of a study look too good."""
    assert isinstance(base.config, TrainConfig)
    key, allowed = "tokenizer.trained_on", "train"
    varied = space.parameters.get(key)
    if base.config.tokenizer.trained_on != allowed:
        place = base.document.place(("tokenizer", "trained_on"))
    elif varied is not None and set(varied.corners()) != {allowed}:
        place = name
    else:
        return
    raise ConfigError(
        f"{place}: {key}: must be {allowed}: validation titles are for measuring; another value only in a design "
        "that says `rebuilds_published: true`"
    )
