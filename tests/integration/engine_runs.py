"""What tests of engines share: a study of trials long enough to be disturbed, and what must be true at its end."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from model.config.train_config import TrainConfig
from model.data.tokenized_corpus import TokenizedCorpus
from model.hardware import device
from model.training import TrainingRun
from service.storage.corpus import load_corpus
from service.storage.database import open_storage
from service.storage.studies import load_study
from tests import conftest

RUNGS = 40


def disturbed_study(
    folder: Path, url: str, *, trials: int, lease_seconds: float = 15.0
) -> conftest.TinyStudy:
    """Some ten seconds a trial on an idle core."""
    study = conftest.tiny_study(folder)
    places = dataclasses.replace(study.settings, storage_url=url, lease_seconds=lease_seconds)
    study = dataclasses.replace(study, settings=places)
    study.write(**{"training.tokens": 400_000, "training.rungs": RUNGS})
    study.create(trials)
    return study


def in_progress(study: conftest.TinyStudy) -> list[FrozenTrial]:
    """Running trials that have passed a rung and have half of them before them."""
    running = [trial for trial in study.trials() if trial.state == TrialState.RUNNING]
    return [trial for trial in running if 1 <= len(trial.intermediate_values) < RUNGS // 2]


def assert_exactly(study: conftest.TinyStudy, trials: int) -> None:
    """So many have finished, in as many slots; one that was interrupted ended as if it had not been."""
    found = study.trials()
    states = Counter(trial.state for trial in found)
    assert states[TrialState.COMPLETE] == trials, states
    assert set(states) <= {TrialState.COMPLETE, TrialState.FAIL}, states
    assert study.slots() == {"open": 0, "leased": 0, "held": 0, "closed": trials}
    resumed = [t for t in found if t.state == TrialState.COMPLETE and "goes_on_with" in t.user_attrs]
    for trial in resumed[:1]:
        assert trial.value == _undisturbed(study, trial)


def went_on(study: conftest.TinyStudy) -> int:
    """Trials that went on with another one."""
    return sum("goes_on_with" in trial.user_attrs for trial in study.trials())


def _undisturbed(study: conftest.TinyStudy, trial: FrozenTrial) -> float:
    """The loss of the trial's configuration, trained here at one go."""
    storage = open_storage(study.settings)
    corpus = load_corpus(load_study(storage, "tiny", study.settings)[0], study.settings)
    storage.engine.dispose()
    config = TrainConfig.model_validate_json(json.dumps(trial.user_attrs["config"]))
    data = TokenizedCorpus.prepare(corpus, config.tokenizer, cache=study.settings.cache)
    *_, last = TrainingRun(config, data, device=device.choose("cpu", threads=1))
    return last.val_loss
