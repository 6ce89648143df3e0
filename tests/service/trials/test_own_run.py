import threading
import zipfile
from pathlib import Path

import pytest
from optuna.trial import TrialState

from model.errors import CheckpointError, Diverged, UserError
from service.study.own_code import OwnCodeError, OwnCodeFailed
from service.study.own_run import BudgetConfig, OwnConfig, OwnRunKind
from service.trials.own_run import OwnTraining, unpack
from tests.own_code import RUN, altered, own_study, write_own

SEVERAL = altered(
    "yield self.step, self.value", "yield self.step, {'height': self.value, 'steps': self.step}"
)


def training(folder: Path, source: str = RUN) -> OwnTraining:
    write_own(folder, source=source)
    kind = OwnRunKind("falling:Run", BudgetConfig(amount=9, unit="strides", rungs=3), "height")
    return OwnTraining(kind, [folder], "cpu")


def config(**values) -> OwnConfig:
    return OwnConfig({"seed": 1, "rate": 0.1, "kind": "plain"} | values, 9, 3)


def test_a_run_is_evaluated_at_its_rungs_and_then_has_finished(tmp_path):
    run = training(tmp_path).begin(config())
    values = [(each.rung_tokens, each.tokens, each.val_loss) for each in run]
    assert [(rung, tokens) for rung, tokens, _ in values] == [(3, 3), (6, 6), (9, 9)]
    assert values[0][2] > values[1][2] > values[2][2] > 0
    assert run.finished
    assert run.tokens == 9
    assert run.evaluations[0].train_seconds <= run.evaluations[2].train_seconds


def test_further_values_have_names_that_are_none_of_ours(tmp_path):
    first = next(iter(training(tmp_path, SEVERAL).begin(config())))
    fields = first.as_dict()
    assert fields["metrics/steps"] == 3.0
    assert {"rung_tokens", "tokens", "val_loss", "train_seconds", "tokens_per_second"} < fields.keys()


def test_a_saved_run_goes_on_to_the_same_bits(tmp_path):
    undisturbed = [each.val_loss for each in training(tmp_path / "a").begin(config())]
    run = training(tmp_path / "a").begin(config())
    next(iter(run))
    run.save(tmp_path / "state.zip")
    resumed = training(tmp_path / "a").resume(tmp_path / "state.zip", config())
    assert resumed.evaluations == run.evaluations
    assert [run.evaluations[0].val_loss, *(each.val_loss for each in resumed)] == undisturbed
    assert resumed.finished


def test_a_stopped_run_ends_without_an_evaluation(tmp_path):
    run = training(tmp_path).begin(config())
    iterator = iter(run)
    next(iterator)
    threading.Thread(target=run.stop).start()
    assert [each.rung_tokens for each in iterator] in ([], [6])
    assert not run.finished


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            altered("yield self.step, self.value", "yield self.value"),
            "must yield (how long it has trained, the value)",
        ),
        (
            altered("yield self.step, self.value", "yield 2, self.value"),
            "evaluated at 2 strides, must be at 3 and before 6",
        ),
        (
            altered("yield self.step, self.value", "yield 6, self.value"),
            "evaluated at 6 strides, must be at 3 and before 6",
        ),
        (
            altered("yield self.step, self.value", "yield 3.0, self.value"),
            "evaluated at 3.0 strides, must be at 3",
        ),
        (
            altered("yield self.step, self.value", "yield self.step, 'low'"),
            "yielded 'low' as height, must be a number",
        ),
        (
            altered("yield self.step, self.value", "yield self.step, {'depth': 1}"),
            "yielded depth, must have 'height' among",
        ),
        (altered("self.rungs[-1] and", "4 and"), "ended after 1 of 3 evaluations"),
    ],
)
def test_what_a_class_yields_is_checked(tmp_path, source, said):
    with pytest.raises(OwnCodeError) as raised:
        list(training(tmp_path, source).begin(config()))
    assert str(raised.value).startswith("run: falling:Run: ")
    assert said in str(raised.value)


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')"])
def test_a_value_that_is_not_finite_is_a_divergence(tmp_path, value):
    run = training(tmp_path, altered("self.step, self.value\n", f"self.step, {value}\n")).begin(config())
    with pytest.raises(Diverged, match=r"height (nan|inf) at 3 strides"):
        list(run)


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path):
    source = "import numpy\nimport torch\n" + altered(
        "yield self.step, self.value",
        "yield numpy.int64(self.step), torch.tensor(self.value, dtype=torch.float64)",
    )
    plain = [each.val_loss for each in training(tmp_path / "a").begin(config())]
    assert [each.val_loss for each in training(tmp_path / "b", source).begin(config())] == plain


@pytest.mark.parametrize("where", ["        self.config, self.rungs", "        self.value *="])
def test_an_exception_of_theirs_is_told_apart(tmp_path, where):
    source = altered(where, f"        1 / 0\n{where}")
    with pytest.raises(
        OwnCodeFailed, match=r"ZeroDivisionError: division by zero \(falling\.py:\d+\)"
    ) as raised:
        list(training(tmp_path, source).begin(config()))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_state_that_cannot_be_used_is_refused(tmp_path):
    begun = training(tmp_path)
    run = begun.begin(config())
    next(iter(run))
    path = tmp_path / "state.zip"
    run.save(path)
    whole = path.read_bytes()
    with pytest.raises(CheckpointError, match="class or configuration differ"):
        begun.resume(path, config(rate=0.2))
    for damaged in (whole[: len(whole) // 2], b"", whole.replace(b"[3, ", b"[4, ")):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            begun.resume(path, config())
    path.write_bytes(whole)
    source = altered(
        "        self.step, self.value, (",
        "        raise KeyError('model')\n        self.step, self.value, (",
    )
    with pytest.raises(CheckpointError, match=r"falling:Run\.restore: KeyError: 'model' \(falling"):
        training(tmp_path, source).resume(path, config())


def test_nothing_is_unpacked_outside_of_its_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "state.zip", "w") as archive:
        archive.writestr("hptune.json", "{}")
        archive.writestr("own/../../outside.txt", "x")
    (tmp_path / "in" / "deep").mkdir(parents=True)
    unpack(tmp_path / "state.zip", tmp_path / "in" / "deep")
    assert not (tmp_path / "outside.txt").exists()
    assert not (tmp_path / "in" / "outside.txt").exists()


def test_a_study_of_own_code_is_searched_and_its_best_keep_their_states(tmp_path):
    study = own_study(tmp_path, source=SEVERAL)
    study.create(5)
    study.worker().work()
    trials = study.trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5
    for trial in trials:
        assert trial.user_attrs["config"]["rate"] == trial.params["rate"]
        assert sorted(trial.intermediate_values) == [3, 6, 9]
        assert trial.value == trial.user_attrs["val_loss"]
        assert trial.user_attrs["metrics/steps"] == 9
        assert trial.user_attrs["provenance"]["run"] == "falling:Run"
    assert trials[0].params == {"rate": 0.1}
    assert study.slots() == {"open": 0, "leased": 0, "held": 0, "closed": 5}
    kept = {trial.number for trial in trials if _has_state(study, trial)}
    assert kept == {trial.number for trial in sorted(trials, key=lambda trial: trial.value)[:3]}


def _has_state(study, trial) -> bool:
    artifact = trial.user_attrs.get("checkpoint", {}).get("model.safetensors", "none")
    return (Path(study.settings.artifacts) / artifact).exists()


def test_a_worker_that_stops_hands_its_trial_on_to_the_same_bits(tmp_path):
    undisturbed = own_study(tmp_path / "one")
    undisturbed.create(1)
    undisturbed.worker().work()
    study = own_study(tmp_path / "two")
    study.create(1)
    worker = study.worker()
    build = worker._runner.training.begin

    def begin(given):  # a signal in the middle of the second rung
        run = build(given)
        train = run._own.train

        def step():
            train()
            if run._own.step == 4:
                worker.stop()

        run._own.train = step
        return run

    worker._runner.training.begin = begin
    worker.work()
    assert [trial.user_attrs["ended"] for trial in study.trials()] == ["interrupted"]
    study.worker().work()
    first, second = study.trials()
    assert second.user_attrs["goes_on_with"] == first.number
    assert second.intermediate_values == undisturbed.trials()[0].intermediate_values


def test_a_trial_whose_code_fails_is_tried_again_and_then_given_up(tmp_path, capsys):
    study = own_study(
        tmp_path, source=altered("        self.value *=", "        1 / 0\n        self.value *=")
    )
    study.create(1)
    study.worker().work()
    trials = study.trials()
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 3
    said = "own training code: ZeroDivisionError: division by zero (falling.py:"
    assert all(trial.user_attrs["ended"].startswith(said) for trial in trials)
    assert "given up" in trials[-1].user_attrs["ended"]
    shown = capsys.readouterr().out
    assert "falling.py" in shown
    assert "objective.py" not in shown  # of the traceback theirs alone


@pytest.mark.parametrize("body", ["", "design: {grid: {rate: [0.1, 0.2, 0.3, 0.4, 0.5]}}\n"])
def test_code_that_always_fails_ends_the_worker_after_five_trials(tmp_path, body):
    source = altered("        self.value *=", "        raise KeyError('lost')\n        self.value *=")
    study = own_study(tmp_path, source=source, **({"body": body} if body else {}))
    study.create(5)
    with pytest.raises(UserError, match="5 trials failed in a row: own training code: KeyError: 'lost'"):
        study.worker().work()
    assert len(study.trials()) == 5  # also where one of them was given up, and a slot closed without a trial


def test_a_diverging_value_and_exhausted_memory_end_the_trial_and_count(tmp_path):
    for name, raised, ended in (
        ("nan", "self.value = float('nan')", "diverged: height nan at 3 strides"),
        ("memory", "raise MemoryError('too wide')", "out of memory: too wide"),
    ):
        study = own_study(
            tmp_path / name,
            source=altered("        self.value *=", f"        {raised}\n        self.value *="),
        )
        study.create(1)
        study.worker().work()
        assert [(t.state, t.user_attrs["ended"]) for t in study.trials()] == [(TrialState.PRUNED, ended)]


def test_a_class_that_breaks_its_contract_ends_the_worker_in_one_line(tmp_path):
    study = own_study(tmp_path, source=altered("yield self.step, self.value", "yield self.value"))
    study.create(2)
    with pytest.raises(UserError, match=r"run: falling:Run: yielded 0\.\d+, must yield \(how long"):
        study.worker().work()


def test_trials_of_own_code_wait_at_a_rung_and_are_promoted(tmp_path):
    study = own_study(
        tmp_path,
        body="space:\n  rate: {type: float, low: 0.01, high: 0.5}\n"
        "pruner: {name: asha, reduction_factor: 3}\ntrials: 4\n",
    )
    study.create()
    study.worker().work()
    trials = study.trials()
    assert len(trials) > 4
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert complete
    assert all(sorted(trial.intermediate_values) == [3, 6, 9] for trial in complete)
    assert any(trial.user_attrs["ended"].startswith("paused at rung") for trial in trials)
