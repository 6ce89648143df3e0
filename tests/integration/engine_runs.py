"""What tests of engines share: a study whose trials wait to be disturbed, and what must be true at its end."""

import dataclasses
import json
import os
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

RUNGS = 8
HELD = Path(__file__).parent / "held"
"""On PYTHONPATH, it has trials wait at the rung that `HeldStudy.allow` names."""


class HeldStudy:
    """A study of trials that take a second, on whose rungs a test decides: none ends before its time."""

    def __init__(self, folder: Path, url: str, *, trials: int, lease_seconds: float = 10.0) -> None:
        study = conftest.tiny_study(folder)
        places = dataclasses.replace(study.settings, storage_url=url, lease_seconds=lease_seconds)
        self.study = dataclasses.replace(study, settings=places)
        self.study.write(**{"training.rungs": RUNGS})
        self.study.create(trials)
        self.trials = trials
        self.folder = folder
        self._allowed = folder / "rungs"
        self.allow(1)

    def allow(self, rungs: int) -> None:
        """Let trials go up to this rung."""
        written = self.folder / "rungs.new"
        written.write_text(str(rungs))
        os.replace(written, self._allowed)  # never seen half written

    def variables(self) -> dict[str, str]:
        """For the workers."""
        given = self.study.command()["env"]
        return {
            **{name: value for name, value in given.items() if name.startswith("HPTUNE_")},
            "HPTUNE_TEST_RUNGS": str(self._allowed),
            "PYTHONPATH": os.pathsep.join([str(conftest.ROOT), str(HELD)]),
        }

    def at(self, rung: int) -> list[FrozenTrial]:
        """Running trials that are there and not further."""
        return [
            trial
            for trial in self.study.trials()
            if trial.state == TrialState.RUNNING and len(trial.intermediate_values) == rung
        ]

    def interrupted(self) -> list[FrozenTrial]:
        """Trials that were handed back."""
        return [trial for trial in self.study.trials() if trial.user_attrs.get("ended") == "interrupted"]

    def resumed(self) -> list[FrozenTrial]:
        """Trials that went on with another one."""
        return [trial for trial in self.study.trials() if "goes_on_with" in trial.user_attrs]

    def assert_exact(self) -> None:
        """So many as asked have finished, in as many slots, with the bits of trials that nothing has interrupted."""
        found = self.study.trials()
        states = Counter(trial.state for trial in found)
        assert states[TrialState.COMPLETE] == self.trials, states
        assert set(states) <= {TrialState.COMPLETE, TrialState.FAIL}, states
        assert self.study.slots() == {"open": 0, "leased": 0, "held": 0, "closed": self.trials}
        complete = [trial for trial in self.resumed() if trial.state == TrialState.COMPLETE]
        assert complete
        for trial in complete:
            assert trial.value == self._undisturbed(trial)

    def _undisturbed(self, trial: FrozenTrial) -> float:
        """The loss of the trial's configuration, trained here at one go."""
        storage = open_storage(self.study.settings)
        corpus = load_corpus(load_study(storage, "tiny", self.study.settings)[0], self.study.settings)
        storage.engine.dispose()
        config = TrainConfig.model_validate_json(json.dumps(trial.user_attrs["config"]))
        data = TokenizedCorpus.prepare(corpus, config.tokenizer, cache=self.study.settings.cache)
        *_, last = TrainingRun(config, data, device=device.choose("cpu", threads=1))
        return last.val_loss
