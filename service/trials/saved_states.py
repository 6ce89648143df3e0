"""The saved states of a trial: what it goes on from when its worker has died or it has waited."""

import contextlib
import time
import uuid
from collections.abc import Callable

import optuna
import structlog
from optuna.artifacts.exceptions import ArtifactNotFound

from model.errors import CheckpointError
from service.storage.artifact_stores import Store, fetched
from service.study.run_config import RunConfig
from service.trials.contract import Run, Training

STATES = "states"
"""Trial attribute: artifact ids of saved states, the newest last; handed on to the trial that goes on."""

SHARE, FREE_SECONDS = 1 / 20, 2.0
"""Of a trial's time, what saving may take at rungs where nothing asks for it, and seconds besides.

On an H200 that two workers shared, a rung of 340,000 tokens took 46 million parameters four and a half seconds, and
what lay between it and the next one two: to save half a gigabyte, above all.
"""


class SavedStates:
    """Those of one trial while a worker has it."""

    def __init__(
        self,
        store: Store,
        trial: optuna.Trial,
        log: structlog.stdlib.BoundLogger,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._trial, self._log, self._clock = store, trial, log, clock
        self._begun, self._saving = clock(), 0.0

    def newest(self, training: Training, config: RunConfig) -> Run | None:
        """The run that the newest of them is of that can be used; None where there is none."""
        for state in reversed(self._names):
            try:
                with fetched(self._store, state) as path:
                    run = training.resume(path, config)
            except (ArtifactNotFound, CheckpointError, OSError) as error:
                self._log.warning("saved state not usable", reason=str(error))
                continue
            self._log.info("resumed", tokens=run.tokens, rung=len(run.evaluations))
            return run
        return None

    def save(self, run: Run) -> bool:
        """Save the run's state under an id of this trial's own, so that no other attempt can overwrite it.

        Returns:
            Whether it is saved.
        """
        names, began = self._names, self._clock()
        own = next((name for name in names if name.endswith(f"-{self._trial.number}")), None)
        name = own or f"state-{uuid.uuid4()}-{self._trial.number}"
        try:
            self._store.write_made(name, run.save)
        except OSError as error:
            self._log.warning("state not saved, an interruption would cost more", reason=str(error))
            return False
        finally:
            self._saving += self._clock() - began
        if own is None:
            self._trial.set_user_attr(STATES, [*names, name])
        return True

    @property
    def due(self) -> bool:
        """The state of a rung is to be saved; otherwise saving has taken its share, and an earlier one has to do."""
        return self._saving <= FREE_SECONDS + SHARE * (self._clock() - self._begun)

    @property
    def _names(self) -> list[str]:
        names: list[str] = self._trial.user_attrs.get(STATES, [])
        return names


def drop_states(store: Store, trial: optuna.Trial | optuna.trial.FrozenTrial) -> None:
    """Remove the saved states of a finished trial; a store that is away keeps them."""
    with contextlib.suppress(OSError):
        for state in trial.user_attrs.get(STATES, []):
            store.remove(state)
