"""The sampler of a study: its section in `study.yaml` and the Optuna object made of it."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal, assert_never

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from pydantic import Field

from model.config.section import Section
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
    """Which sequence."""


class GridConfig(Section):
    """Every combination of the choices, once. Needs choices or steps everywhere, and no conditions."""

    name: Literal["grid"]


FEWEST_EARLIER = 4
"""Whole trials below which an earlier study says nothing."""


class ThawConfig(Section):
    """Freeze-thaw search (Swersky 2014): a Gaussian process of all loss curves says at every rung which trial goes on.

    The others wait, and what is begun is the process's choice, too, so that it has no pruner beside it. Its budget is
    in tokens, as under `asha`.
    """

    name: Literal["thaw"]
    startup_trials: int = Field(4, ge=1)
    """Trials begun at points spread over the space before the process is asked."""
    keep_states: int = Field(64, ge=1)
    """Trials that may wait, each with its saved state on disk; of more, those furthest from the best are ended."""
    prior: tuple[str, ...] = Field((), exclude_if=lambda names: not names)
    """Earlier studies in the same storage, by name, or folders of recorded runs, such as `studies/samplers-hard`: their
    whole trials shape the first guesses, and are weighed by how well they agree with this study's own losses."""


SamplerConfig = Annotated[
    TpeConfig | RandomConfig | GpConfig | CmaEsConfig | QmcConfig | GridConfig | ThawConfig,
    Field(discriminator="name"),
]


def prior_of(section: SamplerConfig) -> tuple[str, ...]:
    """The earlier studies that it begins with."""
    return section.prior if isinstance(section, ThawConfig) else ()


def shown_sampler(section: SamplerConfig) -> str:
    """Its name, and what it begins with, for people."""
    prior = prior_of(section)
    return f"{section.name}, after {' and '.join(prior)}" if prior else section.name


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
    if section.name in ("tpe", "random", "thaw"):
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
        case RandomConfig() | ThawConfig():  # drawn is what a person's point leaves open
            return optuna.samplers.RandomSampler(seed=seed)
        case GpConfig():
            return optuna.samplers.GPSampler(n_startup_trials=section.startup_trials, seed=seed)
        case CmaEsConfig():
            with experimental():
                return optuna.samplers.CmaEsSampler(
                    n_startup_trials=section.startup_trials,
                    consider_pruned_trials=section.learn_from_pruned,
                    seed=seed,
                )
        case QmcConfig():
            # Not scrambled: a scrambled sequence depends on the seed, and each worker would walk its own.
            with experimental():
                return optuna.samplers.QMCSampler(qmc_type=section.sequence, scramble=False, seed=seed)
        case GridConfig():
            # A grid is run as a design, one cell per slot number, because Optuna's GridSampler repeats cells
            # under several workers (30 cells took 38 trials with eight). Nothing is left to sample.
            return optuna.samplers.RandomSampler(seed=seed)
        case _:
            assert_never(section)


@contextmanager
def experimental() -> Iterator[None]:
    """Around a constructor that Optuna calls experimental; the choice was made in the study file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _listed(keys: frozenset[str] | list[str]) -> str:
    return ", ".join(sorted(keys))
