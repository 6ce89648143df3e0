import optuna
import pytest
from optuna.trial import TrialState

from service.storage.optuna_private import id_of, storage_of
from service.storage.ownership import key_of
from service.storage.reports import read_params, read_reports
from service.storage.slots import Slots


@pytest.fixture
def study(tmp_path):
    url = f"sqlite:///{tmp_path / 'reports.db'}"
    optuna.create_study(study_name="first", storage=url).add_trial(optuna.trial.create_trial(value=1.0))
    study = optuna.create_study(study_name="second", storage=url)
    yield study
    storage_of(study)._backend.engine.dispose()


def test_what_is_read_is_what_optuna_reads(study):
    for number in range(4):
        trial = study.ask()
        trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        trial.suggest_int("layers", 1, 8)
        trial.suggest_categorical("name", ["adamw", "sgd", None])
        for rung in range(number):
            trial.report(0.1 * (rung + 1), 3000 * (rung + 1))
        if number == 2:
            trial.set_user_attr("ended", "diverged: loss nan")
            study.tell(trial, state=TrialState.PRUNED)
    study.ask()
    slots = Slots(storage_of(study)._backend.engine, key_of(study))
    assert id_of(study) == slots.study.study_id
    trials = study.get_trials()
    reports = read_reports(slots)
    assert {number: r.losses for number, r in reports.items()} == {
        t.number: t.intermediate_values for t in trials
    }
    assert {number: r.state for number, r in reports.items()} == {t.number: t.state for t in trials}
    assert [reports[number].ended for number in range(5)] == ["", "", "diverged: loss nan", "", ""]
    assert read_params(slots, {0, 2, 4}) == {number: trials[number].params for number in (0, 2, 4)}
    assert read_params(slots, set()) == {}
