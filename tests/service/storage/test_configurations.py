import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from model.errors import ConfigError
from service.storage.configurations import configuration_of
from service.storage.opened_study import open_study


@pytest.fixture
def opened(finished):
    opened = open_study(finished.settings, "tiny")
    yield opened
    opened.close()


def added(lr):
    """A trial as somebody adds it, without a configuration."""
    return create_trial(
        value=2.0,
        params={"optimizer.lr": lr},
        distributions={"optimizer.lr": FloatDistribution(1e-6, 1.0, log=True)},
    )


def test_a_trial_of_its_own_has_what_it_was_trained_with(opened):
    for trial in opened.study.trials:
        config = configuration_of(opened.study, opened.definition, trial)
        assert config.model_dump(mode="json") == trial.user_attrs["config"]


def test_an_added_one_has_what_its_point_would_train(opened):
    config = configuration_of(opened.study, opened.definition, added(0.002))
    assert config.optimizer.lr == 0.002
    expected = opened.base_config.model_dump(mode="json")
    expected["optimizer"]["lr"] = 0.002
    assert config.model_dump(mode="json") == expected


def test_a_point_outside_the_space_is_refused_with_its_key(opened):
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        configuration_of(opened.study, opened.definition, added(0.9))
