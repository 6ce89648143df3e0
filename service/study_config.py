"""The schema of `studies/<name>/study.yaml`, and a study as everything else sees it.

A study has either a search space, with a sampler and a pruner, or a design: a fixed list of configurations.
Reading it applies the fixed values to the base file and proves every configuration a trial may ask for.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from model.config import TrainConfig
from model.errors import ConfigError, UserError
from model.yaml_tree import Document, Section, read, validate
from service import strategy
from service.design import MAX_CELLS, DesignConfig, space_of
from service.parameters import ParameterSection
from service.search_space import SearchSpace, Values, leaves
from service.space_proof import prove_cells, prove_space

REPOSITORY = Path(__file__).resolve().parent.parent
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


class StudyConfig(Section):
    """One study: a question, what is varied, and how the search goes."""

    question: str = Field(min_length=1)
    """One sentence."""
    base: str = "train_config.yaml"
    """The training run that is varied; a path relative to the repository."""
    seed: int = Field(1337, ge=0)
    """Of the sampler. The seed of the training runs is the base file's."""
    trials: int = Field(50, ge=1)
    """Trials when nothing else is said, the baseline included. A design has its own number."""
    fixed: dict[str, Any] = Field(default_factory=dict)
    """Values by dotted key that the base file gets in every trial."""
    space: Annotated[dict[str, ParameterSection], Field(min_length=1)] | None = None
    """Parameters by dotted key."""
    design: DesignConfig | None = None
    """Configurations in place of a search."""
    sampler: strategy.SamplerConfig | None = None
    """How a space is searched; null is `tpe`."""
    pruner: strategy.PrunerConfig = strategy.NoPrunerConfig()
    """When a trial is stopped early."""
    keep_checkpoints: int = Field(3, ge=1)
    """Weights are kept of this many best trials."""
    baseline: bool = True
    """Trial 0 is the base file with the fixed values."""

    @model_validator(mode="after")
    def _search_or_design(self) -> "StudyConfig":
        if (self.space is None) == (self.design is None):
            given = "neither" if self.space is None else "both"
            raise ValueError(f"needs either space or design, given {given}")
        if self.design is not None and self.sampler is not None:
            raise ValueError("sampler has no effect with a design, given both")
        if self.design is not None or (self.sampler is not None and self.sampler.name == "grid"):
            if "seed" in self.model_fields_set:
                raise ValueError(
                    "seed is the sampler's and has no effect with a design or a grid; for training runs give "
                    "`fixed: {seed: ...}` or `design: {seeds: [...]}`"
                )
            if "trials" in self.model_fields_set:
                raise ValueError("trials has no effect with a design or a grid, which is run as a whole")
        return self


@dataclass(frozen=True)
class StudyDefinition:
    """A study that has been read, validated and proven.

    Attributes:
        name: Its folder's name.
        question: One sentence.
        base: The base file with the fixed values and the command line's overrides in it.
        base_config: The same, validated: the baseline's configuration.
        space: What is searched; of a design, what differs between its cells.
        cells: The configurations to run as values by dotted key, one for each slot number: of a design, or of
            a space under `sampler: {name: grid}`. With `baseline` it is the first, and not run a second time
            where the others contain it. Empty where a sampler searches.
        sampler: Never consulted where there are `cells`.
        pruner: When a trial is stopped early.
        seed: Of the sampler; each worker derives its own from it.
        trials: Number of trials when nothing else is said, the baseline included.
        keep_checkpoints: Weights are kept of this many best trials.
        baseline: Trial 0 is `base_config`.
        tree: The study file as it was read.
        overrides: The command line's values, already in `base`.
    """

    name: str
    question: str
    base: Document = field(compare=False)
    base_config: TrainConfig
    space: SearchSpace
    cells: tuple[Values, ...]
    sampler: strategy.SamplerConfig
    pruner: strategy.PrunerConfig
    seed: int
    trials: int
    keep_checkpoints: int
    baseline: bool
    tree: Mapping[str, Any]
    overrides: Mapping[str, Any]

    def fixed_values(self, slot: int) -> Values | None:
        """The values of the trial in slot `slot`, from 0, or None where the sampler suggests them.

        The baseline's are those that it has in the space already. They must not be left out: Optuna models
        jointly only the parameters that all finished trials have.
        """
        if self.baseline and slot == 0:
            return self.space.within(self.base_config.model_dump(mode="json"))
        return self.cells[slot] if self.cells else None

    def config_for(self, values: Mapping[str, Any]) -> TrainConfig:
        """The configuration of a trial with these values."""
        return self.space.config_for(self.base, values)

    def identity(self) -> dict[str, str]:
        """A hash for each part that must not change while the study has trials.

        The question, the number of trials and of checkpoints may change; so may formatting, comments and
        whether a default is written out.
        """
        parts: dict[str, Any] = {
            "base config": self.base_config.model_dump(mode="json"),
            "search space": {key: p.model_dump(mode="json") for key, p in self.space.parameters.items()},
            "design": self.cells,
            "strategy": [self.sampler.model_dump(), self.pruner.model_dump(), self.seed],
            "baseline": self.baseline,
        }
        return {name: _short_hash(part) for name, part in parts.items()}

    def snapshot(self) -> dict[str, Any]:
        """The study as JSON can hold it: enough to work on it without its files."""
        base = self.base_config.model_dump(mode="json")
        return {"name": self.name, "study": self.tree, "base": base, "overrides": self.overrides}

    @classmethod
    def from_snapshot(cls, snapshot: Mapping[str, Any]) -> "StudyDefinition":
        """The study of a `snapshot`. It is not proven again; ConfigError: another version's."""
        document = Document(f"study {snapshot['name']} in the storage", snapshot["study"])
        base = Document(f"base file of {document.name}", snapshot["base"])
        return _definition(snapshot["name"], document, base, snapshot["overrides"])


def load(
    name_or_path: str | Path, *, overrides: Mapping[str, object] | None = None, root: Path = REPOSITORY
) -> StudyDefinition:
    """Read, validate and prove a study.

    Args:
        name_or_path: A folder's name under `studies/`, or the path of a `study.yaml` or of its folder.
        overrides: Values by dotted key for the base file; they win over the study's `fixed`.
        root: The repository.

    Raises:
        ConfigError: the study, its base file or an override has to be corrected.
        UserError: there is no such study, or its name is not one.
    """
    path = _study_file(str(name_or_path), root)
    document = read(_from_here(path))
    study = validate(document, StudyConfig)
    given: dict[str, Any] = dict(overrides or {})
    places = {key: document.place(("fixed", key)) for key in study.fixed} | dict.fromkeys(
        given, "command line"
    )
    edits = {**study.fixed, **given}
    base = read(_from_here(root / study.base)).with_overrides(edits, places)
    definition = _definition(path.resolve().parent.name, document, base, given)
    varied = {*definition.space.parameters, *(key for cell in definition.cells for key in cell)}
    for edit in edits:
        for key in sorted(varied):
            if f"{key}.".startswith(f"{edit}.") or f"{edit}.".startswith(f"{key}."):
                what = "varied by the study, cannot be set for all trials"
                raise ConfigError(f"{places[edit]}: {edit}: {what}; {key} stands in its space or design")
    without_effect = _prove(definition, study, document)
    for edit in edits:
        if edit in without_effect:
            raise ConfigError(f"{places[edit]}: {edit}: has no effect in any trial of this study")
    return definition


def checked_name(name: str) -> str:
    """`name`, if it can be a study's: it becomes the name of folders. Raises UserError otherwise."""
    if not _NAME.match(name):
        raise UserError(
            f"study {name!r}: a name has letters, digits, '_', '-' and '.', begins with a letter or a digit, and has "
            "at most 100 characters"
        )
    return name


def _prove(definition: StudyDefinition, study: StudyConfig, document: Document) -> frozenset[str]:
    """Check what needs more than the file's schema; the keys without effect in all configurations."""
    misfit = strategy.pruner_misfit(definition.pruner, definition.base_config.training.rungs)
    if misfit:
        raise ConfigError(f"{document.place(('pruner',))}: pruner: {misfit}")
    base = definition.base
    if study.design is not None:
        cells = study.design.cells()
        places = [document.place(("design", *path)) for path, _ in cells]
        return prove_cells([cell for _, cell in cells], base, places).without_effect
    proof = prove_space(definition.space, base)
    if definition.baseline and definition.sampler.name not in ("random", "grid"):
        values = definition.fixed_values(0) or {}
        for key in definition.space.parameters:
            if key not in values and key not in definition.space.conditional:
                learner = f"{definition.sampler.name} learns from the baseline"
                way_out = "widen it, give another value under `fixed`, or `baseline: false`"
                raise definition.space.fault(
                    key, f"the base file's value is outside, and {learner}; {way_out}"
                )
    return proof.without_effect


def _definition(
    name: str, document: Document, base: Document, overrides: Mapping[str, Any]
) -> StudyDefinition:
    study = validate(document, StudyConfig)
    base_config = validate(base, TrainConfig)
    cells: list[Values] = []
    if study.space is not None:
        places = {key: document.place(("space", key)) for key in study.space}
        space = SearchSpace(study.space, places)
        cells = _grid(study, space, document)
    else:
        assert study.design is not None, "the schema asks for one of the two"
        cells = [cell for _, cell in study.design.cells()]
    if cells and study.baseline:
        cells = [{}, *(cell for cell in cells if _differs(base, cell, base_config))]
    if study.design is not None:
        space = space_of(cells, dict(leaves(base_config.model_dump(mode="json"))))
    return StudyDefinition(
        name=name,
        question=study.question,
        base=base,
        base_config=base_config,
        space=space,
        cells=tuple(cells),
        sampler=study.sampler
        or (strategy.TpeConfig() if study.space else strategy.RandomConfig(name="random")),
        pruner=study.pruner,
        seed=study.seed,
        trials=len(cells) or study.trials,
        keep_checkpoints=study.keep_checkpoints,
        baseline=study.baseline,
        tree=document.tree,
        overrides=overrides,
    )


def _grid(study: StudyConfig, space: SearchSpace, document: Document) -> list[Values]:
    """The cells of a space under `sampler: {name: grid}`, none under another; refuses what does not fit."""
    if study.sampler is None:
        return []
    misfit = strategy.sampler_misfit(study.sampler, space.distributions, space.conditional)
    if misfit is None and study.sampler.name == "grid":
        if space.cell_count <= MAX_CELLS:
            return list(space.cells())
        misfit = f"grid must have at most {MAX_CELLS} configurations, given {space.cell_count}"
    if misfit:
        raise ConfigError(f"{document.place(('sampler',))}: sampler: {misfit}")
    return []


def _differs(base: Document, values: Values, base_config: TrainConfig) -> bool:
    """The values make another configuration than the base file's, or one that the proof will refuse."""
    try:
        return validate(base.with_overrides(values), TrainConfig) != base_config
    except ConfigError:
        return True


def _study_file(name_or_path: str, root: Path) -> Path:
    is_path = os.sep in name_or_path or name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path) if is_path else root / "studies" / name_or_path / "study.yaml"
    if path.is_dir():
        path /= "study.yaml"
    name = path.resolve().parent.name if is_path else name_or_path
    checked_name(name)
    if not path.is_file():
        there = sorted(file.parent.name for file in (root / "studies").glob("*/study.yaml"))
        raise UserError(f"study {name_or_path!r} does not exist; there are: {', '.join(there) or 'none'}")
    return path


def _from_here(path: Path) -> Path:
    """The path as a person in the current folder would write it."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _short_hash(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:12]
