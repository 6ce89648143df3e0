"""A study as everything else sees it: its file read, at the size asked for, and proven.

A study has either a search space, with a sampler and a pruner, or a design: a fixed list of configurations.
Reading it applies the fixed values to the base file and proves every configuration a trial may ask for.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.config.section import validate
from model.config.train_config import TrainConfig
from model.config.yaml_tree import Document, read
from model.errors import ConfigError
from service.settings import HOME
from service.study import pruners, samplers, strategy
from service.study.base import Base, Built
from service.study.base_file import decays, kind_of, read_base_file, refuse_seen_validation, resized
from service.study.cells import built_cells, file_space
from service.study.design import BASELINE, Cell, space_of
from service.study.faults import refuse_idle, told_together
from service.study.file import (
    StopConfig,
    StudyConfig,
    checked_name,
    from_here,
    place_of,
    refuse_varied,
    study_file,
)
from service.study.own_run import OwnRunKind
from service.study.proof import prove_baseline, prove_cells, prove_space
from service.study.run_config import RunConfig
from service.study.search_space import SearchSpace, Values
from service.study.spend import SpendConfig, unit_of
from service.study.tries import tried_points
from service.text.words import GPT, Words


@dataclass(frozen=True)
class StudyDefinition:
    """A study that has been read, validated and proven.

    Attributes:
        name: Its folder's name, with that of its scale behind a hyphen.
        scale: Of `scales` in its file; None for its own size.
        question: One sentence.
        base: The base file with the fixed values and the command line's overrides in it.
        space: What is searched; of a design, what differs between its cells.
        cells: The configurations to run as values by dotted key, one for each slot number: of a design, or of
            a space under `sampler: {name: grid}`. With `baseline` it is the first, and not run a second time
            where the others contain it. Empty where a sampler searches.
        arms: The name of each cell, shared by those that differ in their seed alone.
        tries: Points of the space that the first trials have, after the baseline.
        own_budgets: Each trial has its own configuration's budget; otherwise all have that of `base_config`.
        sampler: Never consulted where there are `cells`.
        pruner: When a trial is stopped early.
        strategy_open: The file names neither, and the two are what `service.study.strategy` says.
        stop: What a further trial has to promise, or the search stops; None: it spends its budget.
        seed: Of the sampler; each worker derives its own from it.
        trials: Number of trials when nothing else is said, the baseline included; without effect beside `spend`.
        keep_checkpoints: Weights are kept of this many best trials.
        baseline: The first slot's trial is `base_config`.
        tree: The study file as it was read, with its sampler.
        overrides: The command line's values, already in `base`.
        file: The study file that it was made from, relative to the repository where it is in there; None: not recorded.
    """

    name: str
    scale: str | None
    question: str
    base: Base
    space: SearchSpace
    cells: tuple[Values, ...]
    arms: tuple[str, ...]
    tries: tuple[Values, ...]
    own_budgets: bool
    sampler: samplers.SamplerConfig
    pruner: pruners.PrunerConfig
    stop: StopConfig | None
    seed: int
    trials: int
    spend: SpendConfig | None
    keep_checkpoints: int
    baseline: bool
    tree: Mapping[str, Any]
    overrides: Mapping[str, Any]
    file: str | None = None
    strategy_open: bool = field(default=False, compare=False)

    @property
    def base_config(self) -> RunConfig:
        """The base file's configuration: the baseline's."""
        return self.base.config

    @property
    def own_run(self) -> OwnRunKind | None:
        """The training code of the user's that it trains; None of the built-in GPT."""
        return self.base.kind if isinstance(self.base.kind, OwnRunKind) else None

    def gpt_config(self, what: str) -> TrainConfig:
        """The base file's configuration, for what applies to the built-in GPT alone. Raises ConfigError: it is none."""
        if isinstance(self.base.config, TrainConfig):
            return self.base.config
        assert self.own_run is not None
        raise ConfigError(
            f"study {self.name!r} trains {self.own_run.run}: {what} applies to the built-in GPT alone"
        )

    @property
    def words(self) -> Words:
        """What pages call its objective and its budget."""
        own = self.own_run
        return GPT if own is None else Words(own.metric, "", own.budget.unit)

    @property
    def pauses(self) -> bool:
        """Its trials may wait at a rung, and its budget is in tokens, or in the unit of `spend`."""
        return isinstance(self.pruner, pruners.AshaConfig) or isinstance(self.sampler, samplers.ThawConfig)

    def fixed_values(self, slot: int) -> Values | None:
        """The values of the trial in slot `slot`, from 0, or None where the sampler suggests them.

        The baseline's are those that it has in the space already. They must not be left out: Optuna models
        jointly only the parameters that all finished trials have.
        """
        if self.baseline and slot == 0:
            base = self.space.within(self.base_config.model_dump(mode="json"))
            return {**base, **self.cells[0]} if self.cells else base
        if self.cells:
            return self.cells[slot]
        tried = slot - self.baseline
        return self.tries[tried] if tried < len(self.tries) else None

    def is_baseline(self, slot: int) -> bool:
        """Whether the trial in this slot is what others are compared with, so that it runs to its end."""
        return self.baseline and (self.arms[slot] == BASELINE if self.arms else slot == 0)

    def config_for(self, values: Mapping[str, Any]) -> RunConfig:
        """The configuration of a trial with these values."""
        return self.base.config_for(values, self.space.places)

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
            "stop": self.stop and self.stop.model_dump(),
            "unit of its budget": unit_of(self.spend),
            "baseline": self.baseline,
            "list of points to try": self.tries,
        }
        if (own := self.own_run) is not None:
            parts["training code"] = [own.run, own.metric, own.budget.model_dump()]
        texts = {name: json.dumps(part, sort_keys=True) for name, part in parts.items()}
        return {name: hashlib.sha256(text.encode()).hexdigest()[:12] for name, text in texts.items()}

    def snapshot(self) -> dict[str, Any]:
        """The study as JSON can hold it: enough to work on it without its files."""
        base = self.base_config.model_dump(mode="json")
        given = {"overrides": self.overrides, "scale": self.scale, "file": self.file}
        return {"name": self.name, "study": self.tree, "base": base, **given}

    @classmethod
    def from_snapshot(cls, snapshot: Mapping[str, Any]) -> "StudyDefinition":
        """The study of a `snapshot`. It is not proven again; ConfigError: another version's."""
        document = Document(f"study {snapshot['name']} in the storage", snapshot["study"])
        study = strategy.before_there_was_thaw(validate(document, StudyConfig))
        if "scale" not in snapshot and study.design is not None and study.design.seeds:
            raise ConfigError(f"{document.name}: made by a version with another order of seeds; make it anew")
        scale = snapshot.get("scale")
        kind = kind_of(study)
        stored = Document(f"base file of {document.name}", snapshot["base"])
        config = kind.recorded(stored)
        base = Base(Document(stored.name, config.model_dump(mode="json")), config, kind)
        cells = built_cells(study, document, base, study.scales[scale] if scale else None)
        given = {"scale": scale, "overrides": snapshot["overrides"], "file": snapshot.get("file")}
        return _definition(snapshot["name"], study, document, base, cells, **given)


def load(
    name_or_path: str | Path,
    *,
    overrides: Mapping[str, object] | None = None,
    scale: str | None = None,
    root: Path = HOME,
) -> StudyDefinition:
    """Read, validate and prove a study.

    Args:
        name_or_path: A folder's name under `studies/`, or the path of a `study.yaml` or of its folder.
        overrides: Values by dotted key for the base file; they win over the study's `fixed` and its scale.
        scale: One of the study's `scales`, which changes the base file and the cells and adds to the name.
        root: Where `studies/` and the base files are.

    Raises:
        ConfigError: the study, its base file or an override has to be corrected.
        UserError: there is no such study or scale, or its name is not one.
    """
    path = study_file(str(name_or_path), root)
    document = read(from_here(path))
    with told_together(document, overrides or {}, root):
        read_study = validate(document, StudyConfig)
        study = strategy.with_sampler(read_study)
        name = path.resolve().parent.name
        fixed = {key: document.place(("fixed", key)) for key in study.fixed}
        file, kind = read_base_file(study, path, root)
        file = file.with_overrides(study.fixed, fixed)
        for_all: dict[str, str] = {}
        if scale is not None:
            name = checked_name(f"{name}-{scale}")
            file, for_all = resized(study, document, file, scale, kind)
        given = dict(overrides or {})
        for_all |= dict.fromkeys(given, "command line")
        refuse_varied(study, fixed, for_all)  # first: what such a value breaks is not what is wrong
        base = Base.of(file.with_overrides(given, for_all), kind)
        cells = built_cells(study, document, base, study.scales[scale] if scale else None)
        made_from = {"scale": scale, "overrides": given, "file": place_of(path, root)}
        is_open = strategy.is_open(read_study)
        definition = _definition(name, study, document, base, cells, strategy_open=is_open, **made_from)
        for edit, place in fixed.items():
            if definition.cells and all(edit in cell for cell in definition.cells):
                raise ConfigError(
                    f"{place}: {edit}: has no effect, each configuration of the design has its own"
                )
        if not study.rebuilds_published and study.run is None:
            refuse_seen_validation(base, definition.space, name)
        without_effect = _prove(definition, study, document, cells)
        # what the file fixes may idle at a scale, or where the command line asks for something else
        checked = for_all if scale or given else fixed | for_all
        refuse_idle({key: place for key, place in checked.items() if key in without_effect})
        return definition


def _prove(
    definition: StudyDefinition,
    study: StudyConfig,
    document: Document,
    cells: Sequence[tuple[Cell, Built]],
) -> frozenset[str]:
    """Check what needs more than the file's schema; the keys without effect in all configurations."""
    misfit = pruners.pruner_misfit(
        definition.pruner,
        definition.base_config.rung_count,
        key="training.rungs" if definition.own_run is None else "budget.rungs",
    )
    if misfit:
        raise ConfigError(f"{document.place(('pruner',))}: pruner: {misfit}")
    if study.design is not None:
        places = [document.place(("design", *cell.path)) for cell, _ in cells]
        return prove_cells(
            definition.cells,
            definition.base,
            places,
            built=[config for _, config in cells],
            own_budgets=definition.own_budgets,
        ).without_effect
    proof = prove_space(definition.space, definition.base)
    if definition.baseline and definition.sampler.name not in ("random", "grid"):
        values = definition.fixed_values(0) or {}
        prove_baseline(definition.space, definition.base, values, learns=definition.sampler.name)
    return proof.without_effect


def _definition(
    name: str,
    study: StudyConfig,
    document: Document,
    base: Base,
    cells: Sequence[tuple[Cell, Built]],
    **given: Any,
) -> StudyDefinition:
    values = tuple(cell.values for cell, _ in cells)
    space = space_of(values, base.values) if study.space is None else file_space(study, document)
    sampler = study.sampler.model_dump(mode="json") if study.sampler else None
    return StudyDefinition(
        name=name,
        question=study.question,
        base=base,
        space=space,
        cells=values,
        arms=tuple(cell.arm for cell, _ in cells),
        tries=tried_points(study, document, space, base),
        own_budgets=study.design is not None and study.pruner.name == "none",
        sampler=study.sampler or samplers.RandomConfig(name="random"),
        pruner=pruners.with_warmup(study.pruner, decays(base, space)),
        stop=study.stop,
        seed=study.seed,
        trials=len(cells) or study.trials,
        spend=study.spend,
        keep_checkpoints=study.keep_checkpoints,
        baseline=study.baseline,
        tree=document.tree if sampler is None else {**document.tree, "sampler": sampler},
        **given,
    )
