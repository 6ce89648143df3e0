"""Sampler and pruner of a study: their sections in `study.yaml` and the Optuna objects made of them.

A sampler's section holds only the keys of that sampler. Resources of pruners are training tokens, because
trials are reported at shared token counts (rungs); waiting times are fractions of the token budget, so that
they hold for every budget.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Annotated, ClassVar, Literal, assert_never

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from pydantic import Field, model_validator

from model.config.yaml_tree import Section
from service.study.audit import AuditedSection
from service.study.pruners import WarmUpFirstPruner
from service.study.search_space import Distribution


class TpeConfig(Section):
    """Multivariate tree-structured Parzen estimator (Bergstra 2011; joint: Falkner 2018)."""

    name: Literal["tpe"] = "tpe"
    startup_trials: int = Field(10, ge=1)
    """Trials drawn at random before the estimator is used; complete and pruned ones count."""
    candidates: int = Field(24, ge=1)
    """Points drawn from the good trials' density, of which the most promising is taken."""


class RandomConfig(Section):
    """Independent random points."""

    name: Literal["random"]


class GpConfig(Section):
    """Gaussian process with log expected improvement. It learns from complete trials alone."""

    name: Literal["gp"]
    startup_trials: int = Field(10, ge=1)
    """Trials drawn at random before the process is fitted."""


class CmaEsConfig(Section):
    """Covariance matrix adaptation (Hansen 2016)."""

    name: Literal["cmaes"]
    startup_trials: int = Field(1, ge=1)
    """Trials drawn at random before the first generation."""
    learn_from_pruned: bool = True
    """Rank pruned trials by their last reported loss; false leaves them out."""


class QmcConfig(Section):
    """A low-discrepancy sequence, shared by all workers."""

    name: Literal["qmc"]
    sequence: Literal["sobol", "halton"] = "sobol"


class GridConfig(Section):
    """Every combination of the choices, once. Needs choices or steps everywhere, and no conditions."""

    name: Literal["grid"]


SamplerConfig = Annotated[
    TpeConfig | RandomConfig | GpConfig | CmaEsConfig | QmcConfig | GridConfig, Field(discriminator="name")
]


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
    """Share of the budget before which nothing is pruned; null: by the schedules in the study (`with_warmup`)."""
    startup_trials: int = Field(5, ge=0)
    """Complete trials before which nothing is pruned; pruned ones do not count."""


class PercentileConfig(AuditedSection):
    """As `median`, with another share of trials kept."""

    name: Literal["percentile"]
    percentile: float = Field(25.0, gt=0, lt=100)
    """Share of trials kept, in percent; 50 is the median."""
    warmup_fraction: _Warmup = None
    startup_trials: int = Field(5, ge=0)


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


class HyperbandConfig(AuditedSection):
    """Successive halving with several first resources side by side (Li et al. 2018)."""

    name: Literal["hyperband"]
    reduction_factor: int = Field(3, ge=2)


PrunerConfig = Annotated[
    NoPrunerConfig
    | MedianConfig
    | PercentileConfig
    | PatientConfig
    | ThresholdConfig
    | SuccessiveHalvingConfig
    | HyperbandConfig,
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


def worker_seed(study_seed: int, worker_index: int) -> int:
    """A sampler seed of 32 bits for one worker. Workers that share a seed draw the same points."""
    sequence = np.random.SeedSequence(study_seed, spawn_key=(worker_index,))
    return int(sequence.generate_state(1, np.uint32)[0])


def sampler_misfit(
    section: SamplerConfig, space: Mapping[str, Distribution], conditional: frozenset[str]
) -> str | None:
    """Why the sampler cannot search the space, or None where it can.

    Optuna draws at random what a sampler cannot model, and says so in a log line only. `space` holds the
    distributions by dotted key, `conditional` those keys that have a `when`.
    """
    if section.name in ("tpe", "random"):
        return None
    if conditional:
        return f"{section.name} needs a space without conditions, given `when` of {_listed(conditional)}"
    if section.name == "cmaes":
        categorical = [key for key, d in space.items() if isinstance(d, CategoricalDistribution)]
        if categorical:
            return f"cmaes needs float and int parameters, given categorical {_listed(categorical)}"
        if len(space) < 2:
            return f"cmaes needs at least 2 parameters, given {len(space)}"
    if section.name == "grid":
        endless = [
            key
            for key, d in space.items()
            if not isinstance(d, CategoricalDistribution) and (d.log or not d.step)
        ]
        if endless:
            return f"grid needs choices or a step for every parameter, not so for {_listed(endless)}"
    return None


def pruner_misfit(section: PrunerConfig, rungs: int) -> str | None:
    """Why the pruner could never stop a trial of `rungs` evaluations before its end, or None where it can."""
    if section.name == "none":
        return None
    waits = [getattr(part, "warmup_fraction", 0.0) for part in (section, getattr(section, "then", None))]
    # A patient pruner compares the last rungs with the ones before, of which there must be at least one.
    first = section.patience_rungs + 2 if isinstance(section, PatientConfig) else 1
    if first >= rungs or Fraction(str(max(waits))) > Fraction(rungs - 1, rungs):
        return f"{section.name} could stop no trial before its end with training.rungs {rungs}"
    return None


def pair_misfit(sampler: SamplerConfig, pruner: PrunerConfig) -> str | None:
    """What to know before a search with this sampler under this pruner, or None."""
    if sampler.name == "gp" and pruner.name not in ("none", "threshold"):
        return (
            f"sampler gp does not learn from what pruner {pruner.name} stops, and with few workers asks for it again "
            "and again; pruner none, or sampler tpe, then finds more (studies/samplers)"
        )
    return None


def build_sampler(
    section: SamplerConfig, *, seed: int, space: Mapping[str, Distribution]
) -> optuna.samplers.BaseSampler:
    """The Optuna sampler of a section.

    `seed` is this worker's, from `worker_seed`; `space` is `SearchSpace.distributions`.
    """
    assert sampler_misfit(section, space, frozenset()) is None, "refused when the study was loaded"
    match section:
        case TpeConfig():
            # Both are Optuna 5's defaults; they are named because a study depends on them.
            return optuna.samplers.TPESampler(
                n_startup_trials=section.startup_trials,
                n_ei_candidates=section.candidates,
                multivariate=True,
                constant_liar=True,
                seed=seed,
            )
        case RandomConfig():
            return optuna.samplers.RandomSampler(seed=seed)
        case GpConfig():
            return optuna.samplers.GPSampler(n_startup_trials=section.startup_trials, seed=seed)
        case CmaEsConfig():
            with _experimental():
                return optuna.samplers.CmaEsSampler(
                    n_startup_trials=section.startup_trials,
                    consider_pruned_trials=section.learn_from_pruned,
                    seed=seed,
                )
        case QmcConfig():
            # Not scrambled: a scrambled sequence depends on the seed, and each worker would walk its own.
            with _experimental():
                return optuna.samplers.QMCSampler(qmc_type=section.sequence, scramble=False, seed=seed)
        case GridConfig():
            # A grid is run as a design, one cell per slot number, because Optuna's GridSampler repeats cells
            # under several workers (30 cells took 38 trials with eight). Nothing is left to sample.
            return optuna.samplers.RandomSampler(seed=seed)
        case _:
            assert_never(section)


def build_pruner(section: PrunerConfig, *, rungs: tuple[int, ...]) -> optuna.pruners.BasePruner:
    """The Optuna pruner of a section.

    `rungs` are the token counts at which every trial is evaluated, rising; the last is the budget.
    """
    budget_tokens = rungs[-1]
    match section:
        case NoPrunerConfig():
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
            with _experimental():
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


@contextmanager
def _experimental() -> Iterator[None]:
    """Around a constructor that Optuna calls experimental; the choice was made in the study file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _warmup_tokens(fraction: float, budget_tokens: int) -> int:
    """`fraction` of the budget, rounded down as rungs are: half a token must not skip the middle rung."""
    return int(fraction * budget_tokens)


def _listed(keys: frozenset[str] | list[str]) -> str:
    return ", ".join(sorted(keys))
