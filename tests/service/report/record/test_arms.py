from optuna.trial import create_trial

from service.storage.database import open_storage
from service.storage.studies import load_study
from service.text.quantities import shown_number
from tests.service.report.conftest import read_record


def test_each_configuration_of_a_tuned_study_is_an_arm(finished):
    found = read_record(finished)
    assert found.tuned
    trials = finished.trials()
    rates = [shown_number(trial.params["optimizer.lr"]) for trial in trials]
    assert [arm.name for arm in found.arms] == [
        "trial 0: baseline",
        f"trial 1: lr {rates[1]}",
        f"trial 2: lr {rates[2]}",
    ]
    for arm, trial in zip(found.arms, trials, strict=True):
        (run,) = arm.runs
        assert run.complete
        assert run.metrics["val_loss"] == trial.value
        assert run.metrics["val_loss_official"] == trial.user_attrs["val_loss_official"]
        assert [row["val_loss"] for row in run.curve] == list(trial.intermediate_values.values())
        assert run.has_curve
        assert run.metrics["train_flops"] > 6 * run.metrics["tokens"]


def test_trials_that_name_no_arm_are_gathered_by_what_differs_but_the_seed(tiny):
    tiny.write("design: {grid: {optimizer.lr: [0.001, 0.003]}, seeds: [1, 2]}\nbaseline: false\n")
    tiny.create()
    storage = open_storage(tiny.settings)
    study, definition = load_study(storage, "tiny", tiny.settings)
    for lr, seed in ((0.001, 1), (0.003, 1), (0.001, 2)):
        params = {"optimizer.lr": lr, "seed": seed}
        study.add_trial(create_trial(value=lr, params=params, distributions=definition.space.distributions))
    storage.engine.dispose()
    found = read_record(tiny)
    assert {arm.name: [run.seed for run in arm.runs] for arm in found.arms} == {
        "lr 0.001": [1, 2],
        "lr 0.003": [1],
    }
    assert found.baseline == "lr 0.001"
