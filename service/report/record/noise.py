"""What a new seed alone changes in a study's losses: measured where the study has been confirmed."""

import math
from dataclasses import dataclass

import optuna

from service.confirmation import elimination, verdict
from service.confirmation import page as confirmation_page
from service.confirmation.confirm import CONFIRMED
from service.settings import Settings
from service.storage.database import open_storage
from service.storage.ownership import generation_of
from service.storage.seed_noise import pooled_sd
from service.storage.studies import CONFIRMS, StudyError, load_study

CLEAR = 1.96 * math.sqrt(2)
"""Standard deviations of a run: 95 % of the differences of two runs of one configuration are smaller."""


@dataclass(frozen=True)
class Noise:
    """The spread of runs that differ in their seed alone."""

    sd: float
    """Of `val_loss`, pooled over the configurations."""
    runs: int
    """On which it rests."""
    confirmation: str
    """The study that has measured it."""
    sentence: str
    """What that study says of the best configuration."""

    @property
    def clear(self) -> float:
        """Two single runs that differ by less are not told apart."""
        return CLEAR * self.sd


def of_study(study: optuna.Study, settings: Settings) -> Noise | None:
    """What the confirmation of the study has measured; None where there is none, or none any more."""
    confirmed = study.user_attrs.get(CONFIRMED)
    if confirmed is None:
        return None
    storage = open_storage(settings)
    try:
        confirmation, definition = load_study(storage, confirmed["study"], settings)
        if confirmed.get("generation") != generation_of(confirmation):
            return None
        losses = elimination.losses(confirmation, definition)
    except StudyError:
        return None
    finally:
        storage.engine.dispose()
    found = pooled_sd(losses)
    finalists = confirmation.user_attrs[CONFIRMS]["finalists"]
    search_losses = {arm: facts["val_loss"] for arm, facts in finalists.items()}
    judged = verdict.judge(losses, confirmed["seeds"], search_losses)
    if found is None or judged.best is None:
        return None
    return Noise(*found, confirmation=definition.name, sentence=confirmation_page.sentence(judged))
