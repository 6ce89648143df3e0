import pytest

from model.config.counts import flops_per_token, parameter_count
from model.errors import CheckpointError
from model.hardware import device
from model.training import TrainingRun
from service.storage.opened_study import open_study
from service.trials.gpt import GptRun, GptTraining


@pytest.fixture
def gpt(finished):
    opened = open_study(finished.settings, "tiny")
    yield (
        GptTraining(opened.corpus, finished.settings.cache, device.choose("cpu", threads=1)),
        opened.base_config,
    )
    opened.close()


def test_a_run_of_the_gpt_is_a_training_run_and_comes_to_the_losses_of_its_trial(gpt, finished):
    training, config = gpt
    run = training.begin(config)
    assert isinstance(run, TrainingRun)
    losses = {each.rung_tokens: each.val_loss for each in run}
    assert losses == finished.trials()[0].intermediate_values


def test_what_it_says_of_itself_is_what_its_trial_has(gpt, finished):
    training, config = gpt
    trial = finished.trials()[0]
    run = training.begin(config)
    assert {key: trial.user_attrs[key] for key in run.facts()} == run.facts()
    assert run.facts()["parameters"] == parameter_count(config)
    assert run.facts()["flops_per_token"] == flops_per_token(config)
    assert {key: trial.user_attrs["provenance"][key] for key in run.origin()} == run.origin()
    assert training.described(config) == {"parameters": f"{parameter_count(config):,}"}
    assert set(run.noted()) == {"compute"}


def test_it_goes_on_from_a_state_and_refuses_another_ones(gpt, tmp_path):
    training, config = gpt
    run = training.begin(config)
    next(iter(run))
    run.save(tmp_path / "state")
    resumed = training.resume(tmp_path / "state", config)
    assert isinstance(resumed, GptRun)
    assert [each.val_loss for each in resumed.evaluations] == [each.val_loss for each in run.evaluations]
    with pytest.raises(CheckpointError):
        training.resume(tmp_path / "state", config.with_seed(5))
