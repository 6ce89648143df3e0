"""What a study searches with whose file names neither sampler nor pruner: the best of what has been measured."""

from collections.abc import Iterator

from service.study.file import StudyConfig
from service.study.pruners import PrunerConfig, pair_misfit
from service.study.samplers import SamplerConfig, ThawConfig, TpeConfig, prior_of

SHARES = {"thaw": 0.065, "tpe": 0.250}
"""Training tokens to the loss of a hundred random runs, as a share of random search's, with one worker and no pruner
(`studies/samplers`, `tests/benchmarks/results/search.json`)."""
AFTER_RECORDED = 0.041
"""That of `thaw` which begins with what was recorded elsewhere."""


def is_open(study: StudyConfig) -> bool:
    """The file leaves it to us how its space is searched."""
    return study.space is not None and study.sampler is None and "pruner" not in study.model_fields_set


def with_sampler(study: StudyConfig) -> StudyConfig:
    """The study with a sampler: `thaw`, which decides how far each trial goes, unless a pruner is named to do that."""
    if study.space is None or study.sampler is not None:
        return study
    return study.model_copy(update={"sampler": ThawConfig(name="thaw") if is_open(study) else TpeConfig()})


def before_there_was_thaw(study: StudyConfig) -> StudyConfig:
    """The same for a study of the storage that has none in its file, which only older versions have made."""
    if study.space is None or study.sampler is not None:
        return study
    return study.model_copy(update={"sampler": TpeConfig()})


def notes(sampler: SamplerConfig, pruner: PrunerConfig, *, is_open: bool) -> Iterator[str]:
    """What to know of a search before it begins: why it is searched like this where its file leaves it open."""
    if is_open:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in SHARES.items())
        yield (
            f"searched by {sampler.name}, as the file names neither sampler nor pruner: to the loss of a hundred "
            f"random runs it took the least of their tokens ({shares}; studies/samplers). Trials that fall behind "
            "wait, so that more are begun than are paid for as a whole"
        )
        if prior := prior_of(sampler):
            yield (
                f"it begins with what the runs recorded in {', '.join(prior)} say of these settings "
                f"({AFTER_RECORDED:.2f}), and weighs that by how well they agree with its own losses"
            )
    if misfit := pair_misfit(sampler, pruner):
        yield misfit
