import threading

import pytest
import structlog

from service.storage.opened_study import open_study
from service.storage.outages import Patience
from service.storage.studies import StudyError


@pytest.fixture
def opened(finished):
    opened = open_study(finished.settings, "tiny")
    yield opened
    opened.close()


def test_everything_that_is_kept_with_a_study_is_one_objects(opened, finished):
    assert opened.name == opened.definition.name == "tiny"
    assert opened.slots.counts() == {"open": 0, "leased": 0, "held": 0, "closed": 3}
    assert opened.roster.alive() == []
    assert opened.corpus.fingerprint == opened.facts["fingerprint"]
    checkpoint = opened.study.best_trial.user_attrs["checkpoint"]
    assert all(opened.store.has(artifact_id) for artifact_id in checkpoint.values())


def test_the_base_configuration_has_the_budget_that_its_trials_were_given(opened):
    budgets = {trial.user_attrs["config"]["training"]["tokens"] for trial in opened.study.trials}
    assert budgets == {opened.base_config.training.tokens} == {opened.facts["budget_tokens"]}


def test_a_study_that_is_not_there_is_refused_and_its_name_given(opened, finished):
    for miss in (lambda: open_study(finished.settings, "other"), lambda: opened.other("other")):
        with pytest.raises(StudyError, match=r"^study 'other' is not in .*; there are: tiny$"):
            miss()


def test_with_a_patience_the_storage_is_waited_for_and_the_budget_is_not(finished):
    patience = Patience(1, stopping=threading.Event(), log=structlog.get_logger())
    opened = open_study(finished.settings, "tiny", patience=patience)
    assert opened.storage.patience is patience
    assert opened.slots.patience is not patience
    opened.close()
