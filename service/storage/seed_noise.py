"""What seeds alone change in a loss, as a study that has trained configurations with several of them tells."""

import math
from collections.abc import Mapping

import optuna
from optuna.trial import TrialState

from service.settings import Settings
from service.storage.studies import StudyError, load_study
from service.storage.study_storage import StudyStorage


def pooled_sd(losses: Mapping[str, Mapping[int, float]]) -> tuple[float, int] | None:
    """The deviation within arms and the runs that it rests on; None where no arm has two finite losses."""
    finite = ([loss for loss in of.values() if math.isfinite(loss)] for of in losses.values())
    several = [values for values in finite if len(values) > 1]
    if not several:
        return None
    runs = sum(map(len, several))
    means = (math.fsum(values) / len(values) for values in several)
    squares = math.fsum(
        (loss - mean) ** 2 for values, mean in zip(several, means, strict=True) for loss in values
    )
    return math.sqrt(squares / (runs - len(several))), runs


def noise_between_seeds(storage: StudyStorage, name: str, settings: Settings) -> tuple[float, int]:
    """The deviation of the losses of a study's arms over their seeds, and the runs that it rests on.

    Raises:
        StudyError: there is no such study, or none of its arms has two seeds whose losses differ.
    """
    study, _ = load_study(storage, name, settings)
    found = pooled_sd(_by_arm(study))
    if found is None or not found[0]:
        raise StudyError(
            f"stop.noise: study {name!r} has no configuration with the losses of two seeds; name a confirmation, or a "
            "design with several seeds, that has run"
        )
    return found


def _by_arm(study: optuna.Study) -> dict[str, dict[int, float]]:
    losses: dict[str, dict[int, float]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        arm = trial.user_attrs.get("arm")
        if isinstance(arm, str) and trial.value is not None:
            losses.setdefault(arm, {})[trial.number] = trial.value
    return losses
