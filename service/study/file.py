"""The files `studies/<name>/study.yaml`: where they are, and their schema."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from model.config.section import Section
from model.errors import ConfigError, UserError, together
from model.shipped import SHIPPED
from service.settings import HOME, MOST_TRIALS
from service.study import pruners, samplers
from service.study.design import DesignConfig
from service.study.own_run import BudgetConfig
from service.study.parameters import ParameterSection
from service.study.scale import ScaleConfig
from service.study.spend import SpendConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


class StopConfig(Section):
    """When a search stops by itself, before its budget is spent: by one of these. The last ten whole trials' worth of
    training has to have brought no more than that, too: a model of losses is most mistaken about what nobody has tried.
    """

    gain: float | None = Field(None, gt=0)
    """By how much, in nats per character, a further whole trial has to be expected to lower the best loss."""
    noise: str | None = None
    """A study in the same storage whose configurations have several seeds, by name: a confirmation, or a design. A
    further trial has to be expected to lower the best loss by the standard deviation between these."""

    @model_validator(mode="after")
    def _by_one_of_them(self) -> "StopConfig":
        if (self.gain is None) == (self.noise is None):
            raise ValueError(
                f"needs either gain or noise, given {'neither' if self.gain is None else 'both'}"
            )
        return self


class StudyConfig(Section):
    """One study: a question, what is varied, and how the search goes."""

    question: str = Field(min_length=1)
    """One sentence."""
    base: str = "train_config.yaml"
    """The training run that is varied; a path relative to the repository, or, with `run`, to the study's file."""
    run: str | None = None
    """Training code of one's own, as `package.module:Class`; null trains the built-in GPT."""
    budget: BudgetConfig | None = None
    """Of a trial of one's own code; the built-in GPT's stands in its base file."""
    metric: str | None = Field(None, pattern=r"^[^\W_][\w /-]{0,39}$")
    """What is minimised, as one's own code calls it; null is `loss`."""
    seed: int = Field(1337, ge=0)
    """Of the sampler. The seed of the training runs is the base file's."""
    trials: int = Field(50, ge=1, le=MOST_TRIALS)
    """Trials when nothing else is said, the baseline included; where trials wait, as many whole ones' tokens. A design
    has its own number."""
    spend: SpendConfig | None = None
    """What all trials may cost together, in place of `trials`."""
    fixed: dict[str, Any] = Field(default_factory=dict)
    """Values by dotted key that the base file gets in every trial."""
    space: Annotated[dict[str, ParameterSection], Field(min_length=1)] | None = None
    """Parameters by dotted key."""
    tries: tuple[Annotated[dict[str, Any], Field(min_length=1)], ...] = Field((), alias="try")
    """Known points of the space, tried first, after the baseline: values by dotted key. What a point leaves out it has
    from the base file."""
    design: DesignConfig | None = None
    """Configurations in place of a search."""
    sampler: samplers.SamplerConfig | None = None
    """How a space is searched; null is `thaw`, or `tpe` where a pruner is named."""
    pruner: pruners.PrunerConfig = pruners.NoPrunerConfig()
    """When a trial is stopped early."""
    stop: StopConfig | None = None
    """When the search stops by itself; null: when its budget is spent. It takes the sampler `thaw`."""
    keep_checkpoints: int = Field(3, ge=1)
    """Weights are kept of this many best trials."""
    baseline: bool = True
    """The first slot's trial is the base file with the fixed values, and it is run to its end. With `seeds`, it is an
    arm like the others."""
    rebuilds_published: bool = False
    """The design rebuilds published figures, and may use what they used and no search should: a tokenizer trained
    on the titles that it is measured on."""
    scales: dict[str, ScaleConfig] = Field(default_factory=dict)
    """Other sizes at which it can be run, by name."""

    @model_validator(mode="after")
    def _own_code_has_a_budget(self) -> "StudyConfig":
        given = [key for key in ("budget", "metric") if getattr(self, key) is not None]
        if self.run is None and given:
            raise ValueError(f"{given[0]} has no effect without run: the built-in GPT has its own")
        if self.run is not None and self.budget is None:
            raise ValueError("run needs a budget, such as `budget: {amount: 20, unit: epochs, rungs: 5}`")
        if self.run is not None and "base" not in self.model_fields_set:
            raise ValueError("run needs a base, the file with what the class is given")
        return self

    @model_validator(mode="after")
    def _spends_what_can_be_counted(self) -> "StudyConfig":
        if self.spend is None:
            return self
        if "trials" in self.model_fields_set:
            raise ValueError("needs either trials or spend, given both")
        named = (self.sampler is not None and self.sampler.name == "thaw") or self.pruner.name == "asha"
        is_open = self.sampler is None and "pruner" not in self.model_fields_set
        if self.design is not None or not (named or is_open):
            raise ValueError(
                "spend needs trials that wait at a rung, whose cost is claimed one rung at a time: those of the "
                "sampler thaw or the pruner asha; name one of them, or give trials"
            )
        if self.run is not None and self.spend.unit == "flops":
            raise ValueError(
                "spend.flops needs the built-in GPT, code of one's own tells of no operations: give tokens, in units "
                "of its budget, or hours"
            )
        return self

    @model_validator(mode="after")
    def _search_or_design(self) -> "StudyConfig":
        if (self.space is None) == (self.design is None):
            given = "neither" if self.space is None else "both"
            raise ValueError(f"needs either space or design, given {given}")
        if self.space is not None and self.rebuilds_published:
            raise ValueError("rebuilds_published is for a design, given with a space")
        if self.design is not None and self.sampler is not None:
            raise ValueError("sampler has no effect with a design, given both")
        if self.stop is not None and (
            self.design is not None
            or (self.sampler is not None and self.sampler.name != "thaw")
            or (self.sampler is None and "pruner" in self.model_fields_set)
        ):
            raise ValueError(
                "stop needs the sampler thaw, which knows what a further trial would bring: give it, without a pruner, "
                "or take stop out"
            )
        as_a_whole = self.design is not None or (self.sampler is not None and self.sampler.name == "grid")
        if self.sampler is not None and self.sampler.name == "thaw" and self.pruner.name != "none":
            raise ValueError(
                f"pruner {self.pruner.name} does not go with sampler thaw, which itself says how far each trial goes; "
                "take one of the two out"
            )
        if as_a_whole and self.pruner.name == "asha":
            raise ValueError(
                "pruner asha begins trials as it goes, and a design or a grid is run as a whole; give it none, or "
                "another pruner"
            )
        if as_a_whole:
            if self.tries:
                raise ValueError("try has no effect with a design or a grid, which is run as a whole")
            if "seed" in self.model_fields_set:
                raise ValueError(
                    "seed is the sampler's and has no effect with a design or a grid; for training runs give "
                    "`fixed: {seed: ...}` or `design: {seeds: [...]}`"
                )
            if "trials" in self.model_fields_set:
                raise ValueError("trials has no effect with a design or a grid, which is run as a whole")
        return self


def study_file(name_or_path: str, root: Path) -> Path:
    """The file of a study. Raises UserError: there is none, or its name is not one."""
    is_path = os.sep in name_or_path or name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path) if is_path else found_in(root, f"studies/{name_or_path}/study.yaml")
    if path.is_dir():
        path /= "study.yaml"
    name = path.resolve().parent.name if is_path else name_or_path
    checked_name(name)
    if not path.is_file():
        files = (file for each in {root, _shipped(root)} for file in each.glob("studies/*/study.yaml"))
        there = sorted({file.parent.name for file in files})
        raise UserError(f"study {name_or_path!r} does not exist; there are: {', '.join(there) or 'none'}")
    return path


def found_in(root: Path, name: str | Path) -> Path:
    """The file of this name in `root`, or else among those that an installed package brings along."""
    own, shipped = root / name, _shipped(root) / name
    return shipped if shipped.exists() and not own.exists() else own


def _shipped(root: Path) -> Path:
    return SHIPPED if root == HOME else root


def from_here(path: Path) -> Path:
    """The path as a person in the current folder would write it."""
    try:
        path, here = path.absolute(), Path.cwd()
    except FileNotFoundError:  # the folder has been removed
        return path
    return path.relative_to(here) if path.is_relative_to(here) else path


def place_of(path: Path, root: Path) -> str:
    """The path as a study's definition has it: from `root` where it is in there, and so the same in every checkout."""
    path = path.resolve()
    for folder in (root.resolve(), _shipped(root).resolve()):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return str(path)


def checked_name(name: str) -> str:
    """`name`, if it can be a study's: it becomes the name of folders. Raises UserError otherwise."""
    if not _NAME.match(name):
        raise UserError(
            f"study {name!r}: a name has letters, digits, '_', '-' and '.', begins with a letter or a digit, and has "
            "at most 100 characters"
        )
    return name


def refuse_varied(study: StudyConfig, fixed: dict[str, str], for_all: dict[str, str]) -> None:
    """Refuse values for all trials that some replace; by key with their places.

    A design's `fixed` is what its configurations start from: there some may.
    """
    searched = study.space is not None

    def overlap(one: str, other: str) -> bool:
        return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")

    varied = set(study.space or ())
    if study.design is not None:
        varied |= {key for cell in study.design.cells() for key in cell.values}
        varied |= {"seed"} if study.design.seeds else set()
    what = "varied by the study, cannot be set for all trials"
    where = "space" if searched else "design"
    faults = [
        ConfigError(f"{place}: {edit}: {what}; {key} stands in its {where}, take it out there to set it here")
        for edit, place in (fixed | for_all if searched else for_all).items()
        for key in sorted(varied)
        if overlap(edit, key)
    ]
    if faults:
        raise together(faults)
