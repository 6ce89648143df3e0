"""The pruner of a study: its section in `study.yaml` and the Optuna object made of it."""

from collections.abc import Collection
from fractions import Fraction
from typing import Annotated, ClassVar, Literal, assert_never

import optuna
from pydantic import Field, model_validator

from model.config.section import Section
from service.study.audit import AuditedSection
from service.study.samplers import SamplerConfig, experimental


class WarmUpFirstPruner(optuna.pruners.PercentilePruner):
    """Optuna's percentile pruner, which by itself reads all trials before it looks whether warm-up is over."""

    def __init__(self, percentile: float, *, n_startup_trials: int, n_warmup_steps: int) -> None:
        super().__init__(percentile, n_startup_trials=n_startup_trials, n_warmup_steps=n_warmup_steps)
        self._until = n_warmup_steps

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether `trial` is to stop at its last report."""
        if trial.last_step is None or trial.last_step < self._until:
            return False
        return super().prune(study, trial)


class NoPrunerConfig(Section):
    """Every trial runs to its end."""

    name: Literal["none"] = "none"
    audit: ClassVar[float] = 0.0


WARMUP_FRACTION = 0.5
"""From where on a median pruner lost no best run under a constant rate and under cosine: `studies/hn/README.md`."""
WSD_WARMUP_FRACTION = 0.75
"""The same for wsd, whose losses fall at its end: `studies/champion-ablation/README.md`, decays over 0.4."""

_Warmup = Annotated[float, Field(ge=0, lt=1)] | None


class MedianConfig(AuditedSection):
    """Stops a trial whose best loss so far is worse than the median of finished trials at the same rung."""

    name: Literal["median"]
    warmup_fraction: _Warmup = None
    """Share of the budget before which nothing is pruned; null is a half, or three quarters where a schedule of the
    study is wsd (`with_warmup`)."""
    startup_trials: int = Field(5, ge=0)
    """Complete trials before which nothing is pruned; pruned ones do not count."""


class PercentileConfig(AuditedSection):
    """As `median`, with another share of trials kept."""

    name: Literal["percentile"]
    percentile: float = Field(25.0, gt=0, lt=100)
    """Share of trials kept, in percent; 50 is the median."""
    warmup_fraction: _Warmup = None
    """As of `median`."""
    startup_trials: int = Field(5, ge=0)
    """As of `median`."""


class PatientConfig(AuditedSection):
    """Stops a trial that has not improved for some rungs; with `then`, only if that pruner agrees."""

    name: Literal["patient"]
    patience_rungs: int = Field(2, ge=0)
    """Rungs without an improvement that are waited out."""
    min_delta: float = Field(0.0, ge=0)
    """Smallest fall of the loss that counts as an improvement, in the objective's unit."""
    then: Annotated[MedianConfig | PercentileConfig, Field(discriminator="name")] | None = None
    """Pruner that has the last word; null for none."""

    @model_validator(mode="after")
    def _audits_once(self) -> "PatientConfig":
        if self.then is not None and self.then.audit:
            raise ValueError(f"audit has no effect inside then, given {self.then.audit}; it stands beside it")
        return self


class ThresholdConfig(AuditedSection):
    """Stops a trial whose loss is NaN or above a limit. Without `upper` it is a guard against NaN alone."""

    name: Literal["threshold"]
    upper: float | None = None
    """Largest loss allowed; null for no limit."""
    warmup_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of the budget before which nothing is pruned."""


class SuccessiveHalvingConfig(AuditedSection):
    """Asynchronous successive halving (Li et al. 2020): the best 1/`reduction_factor` run on."""

    name: Literal["successive_halving"]
    reduction_factor: int = Field(4, ge=2)
    """One of so many goes on from each rung at which it is asked."""


class HyperbandConfig(AuditedSection):
    """Successive halving with several first resources side by side (Li et al. 2018)."""

    name: Literal["hyperband"]
    reduction_factor: int = Field(3, ge=2)
    """As of `successive_halving`."""


class AshaConfig(Section):
    """Asynchronous successive halving with promotion (Li et al. 2020): trials wait at a rung, the best go on later.

    A study under it has its budget in tokens: `trials` whole ones pay for several times as many that are begun.
    """

    name: Literal["asha"]
    audit: ClassVar[float] = 0.0
    reduction_factor: int = Field(4, ge=2)
    """The best 1/`reduction_factor` of a level's trials go on to the next level, at as many times its tokens."""
    grows: bool = False
    """PASHA (Bohdal et al. 2023): a level is opened when those below it do not agree on the order of their trials."""
    keep_states: int = Field(64, ge=1)
    """Trials that may wait, each with its saved state on disk; of more, those furthest from going on are ended."""


PrunerConfig = Annotated[
    NoPrunerConfig
    | MedianConfig
    | PercentileConfig
    | PatientConfig
    | ThresholdConfig
    | SuccessiveHalvingConfig
    | HyperbandConfig
    | AshaConfig,
    Field(discriminator="name"),
]


def with_warmup(section: PrunerConfig, decays: Collection[str]) -> PrunerConfig:
    """The section with the warm-up that its study leaves open, the longest that one of the `schedule.decay` needs."""
    if isinstance(section, PatientConfig) and section.then is not None:
        return section.model_copy(update={"then": with_warmup(section.then, decays)})
    if isinstance(section, MedianConfig | PercentileConfig) and section.warmup_fraction is None:
        fraction = WSD_WARMUP_FRACTION if "wsd" in decays else WARMUP_FRACTION
        return section.model_copy(update={"warmup_fraction": fraction})
    return section


def pruner_misfit(section: PrunerConfig, rungs: int, *, key: str = "training.rungs") -> str | None:
    """Why the pruner could never stop a trial of `rungs` evaluations (under `key`) before its end, or None."""
    if section.name == "none":
        return None
    waits = [getattr(part, "warmup_fraction", 0.0) for part in (section, getattr(section, "then", None))]
    # A patient pruner compares the last rungs with the ones before, of which there must be at least one.
    first = section.patience_rungs + 2 if isinstance(section, PatientConfig) else 1
    if first >= rungs or Fraction(str(max(waits))) > Fraction(rungs - 1, rungs):
        return f"{section.name} could stop no trial before its end with {key} {rungs}"
    return None


def pair_misfit(sampler: SamplerConfig, pruner: PrunerConfig) -> str | None:
    """What to know before a search with this sampler under this pruner, or None."""
    if sampler.name == "gp" and pruner.name not in ("none", "threshold"):
        return (
            f"sampler gp does not learn from what pruner {pruner.name} stops, and with few workers asks for it again "
            "and again; pruner none, or sampler tpe, then finds more (studies/samplers)"
        )
    return None


def build_pruner(section: PrunerConfig, *, rungs: tuple[int, ...]) -> optuna.pruners.BasePruner:
    """The Optuna pruner of a section.

    `rungs` are the token counts at which every trial is evaluated, rising; the last is the budget.
    """
    budget_tokens = rungs[-1]
    match section:
        case NoPrunerConfig() | AshaConfig():  # whether a trial goes on is asked elsewhere
            return optuna.pruners.NopPruner()
        case MedianConfig() | PercentileConfig():
            assert section.warmup_fraction is not None, "filled in when the study was loaded"
            return WarmUpFirstPruner(
                section.percentile if isinstance(section, PercentileConfig) else 50.0,
                n_startup_trials=section.startup_trials,
                n_warmup_steps=_warmup_tokens(section.warmup_fraction, budget_tokens),
            )
        case PatientConfig():
            then = None if section.then is None else build_pruner(section.then, rungs=rungs)
            with experimental():
                return optuna.pruners.PatientPruner(
                    then, patience=section.patience_rungs, min_delta=section.min_delta
                )
        case ThresholdConfig():
            # An infinite limit is never passed and leaves the pruner's own rule that NaN is pruned.
            return optuna.pruners.ThresholdPruner(
                upper=float("inf") if section.upper is None else section.upper,
                n_warmup_steps=_warmup_tokens(section.warmup_fraction, budget_tokens),
            )
        case SuccessiveHalvingConfig():
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=rungs[0], reduction_factor=section.reduction_factor
            )
        case HyperbandConfig():
            # With max_resource "auto" every worker would make its own estimate of it.
            return optuna.pruners.HyperbandPruner(
                min_resource=rungs[0], max_resource=budget_tokens, reduction_factor=section.reduction_factor
            )
        case _:
            assert_never(section)


def _warmup_tokens(fraction: float, budget_tokens: int) -> int:
    """`fraction` of the budget, rounded down as rungs are: half a token must not skip the middle rung."""
    return int(fraction * budget_tokens)
