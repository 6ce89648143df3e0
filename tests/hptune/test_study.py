"""The package on studies that have run; the wheel itself is tried in tests/integration/test_package.py."""

import optuna
import pytest
from click.testing import CliRunner

import hptune
from model.config.train_config import TrainConfig
from service.__main__ import cli


@pytest.fixture(scope="module")
def study(finished):
    return hptune.open_study("tiny", settings=finished.settings)


def test_trials_are_read_with_what_was_searched_and_measured(study, finished):
    rows = study.trials()
    trials = finished.trials()
    assert [row["trial"] for row in rows] == [trial.number for trial in trials]
    assert [row["val_loss"] for row in rows] == [trial.value for trial in trials]
    assert [row["optimizer.lr"] for row in rows] == [trial.params["optimizer.lr"] for trial in trials]
    assert all(row["state"] == "complete" and row["seed"] == 1337 and not row["added"] for row in rows)
    assert all(row["bits_per_byte"] > 0 and row["tokens_per_second"] > 0 for row in rows)
    assert "model.d_model" not in rows[0]
    assert study.trials(whole=True)[0]["model.d_model"] == 16


def test_a_frame_has_the_rows(study):
    frame = study.frame()
    assert frame.to_dict("records")[0]["val_loss"] == study.trials()[0]["val_loss"]
    assert frame["optimizer.lr"].between(1e-4, 1e-2).all()


def test_the_best_model_is_one_line_away(study, finished):
    best = min(finished.trials(), key=lambda trial: trial.value)
    assert isinstance(study.best_config(), TrainConfig)
    assert study.best_config().optimizer.lr == pytest.approx(best.params["optimizer.lr"])
    assert study.checkpoint().config == study.best_config()
    titles = study.generate("the", number=2, seed=3)
    assert titles == study.generate("the", number=2, seed=3)
    assert all(title.startswith("the") for title in titles)


def test_figures_are_plotlys_by_name(study, finished):
    history = study.plot("history")
    drawn = [value for trace in history.data for value in trace.y or ()]
    assert min(drawn) == pytest.approx(min(trial.value for trial in finished.trials()))
    with pytest.raises(hptune.UserError, match=r"^figure 'nosuch' is not there, allowed: .*history"):
        study.plot("nosuch")
    with pytest.raises(hptune.UserError, match=r"^figure 'history': panel 9, allowed: 0 to 0$"):
        study.plot("history", panel=9)


def test_optuna_itself_reads_the_same_study(study, finished):
    plain = optuna.load_study(study_name="tiny", storage=finished.settings.storage_url)
    assert plain.best_value == min(row["val_loss"] for row in study.trials())
    assert plain.best_params == study.optuna.best_params
    frame = plain.trials_dataframe(attrs=("value", "params"))
    assert list(frame["value_val_loss [nats/char]"]) == list(study.frame()["val_loss"])
    assert list(frame["params_optimizer.lr"]) == list(study.frame()["optimizer.lr"])
    assert optuna.visualization.plot_optimization_history(plain).data


def test_what_is_not_there_is_a_users_error(tiny, finished):
    assert hptune.studies(settings=finished.settings) == ["tiny"]
    with pytest.raises(hptune.UserError, match=r"^study 'nosuch' is not in sqlite.*; there are: tiny$"):
        hptune.open_study("nosuch", settings=finished.settings)
    with pytest.raises(hptune.UserError, match=r"^study 'nosuch' does not exist; there are: "):
        hptune.create("nosuch", settings=tiny.settings)
    study = hptune.create(tiny.file, trials=2, settings=tiny.settings, say=lambda _: None)
    assert study.trials() == []
    assert list(study.frame().columns) == ["trial", "state", "val_loss"]
    for call in (study.best_config, study.checkpoint, study.generate):
        with pytest.raises(hptune.UserError, match=r"^study 'tiny' has no complete trial \(no trials\)$"):
            call()
    with pytest.raises(hptune.UserError, match=r"^trials: given 0, allowed: 1 to 100000$"):
        study.run(0)


@pytest.mark.slow
def test_a_study_is_made_run_and_gone_on_with(tiny, monkeypatch):
    for name, value in tiny.command()["env"].items():
        if name.startswith("HPTUNE_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = hptune.create(tiny.file, trials=1, set={"training.tokens": 4000}, say=lambda _: None)
    assert [row["state"] for row in study.run(workers=1).trials()] == ["complete"]
    plain = optuna.load_study(study_name="tiny", storage=tiny.settings.storage_url)
    plain.enqueue_trial({"optimizer.lr": 0.002})
    assert [row["optimizer.lr"] for row in study.run(1, workers=1).trials()] == [0.001, 0.002]
    assert study.best_config().training.tokens == 4000
    assert CliRunner().invoke(cli, ["status", "tiny"]).exit_code == 0
