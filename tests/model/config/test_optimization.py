import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config.optimization import ScheduleConfig
from model.config.section import validate
from model.config.train_config import TrainConfig
from model.config.yaml_tree import read
from model.errors import ConfigError
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optimizer.lr": 0}, "optimizer.lr: must be greater than 0"),
        ({"optimizer.lr": True}, "optimizer.lr: must be a number"),
        ({"optimizer.lr": "1e-3"}, "optimizer.lr: must be a number"),
        (
            {"optimizer.betas": [0.9, 1.0]},
            "optimizer: betas must be at least 0 and below 1, given [0.9, 1.0]",
        ),
        ({"optimizer.betas": [0.9]}, "optimizer.betas.1: missing key"),
        (
            {"optimizer.name": "adan"},
            "optimizer.name: given \"adan\", allowed: 'sgd', 'adam', 'adamw', 'muon'",
        ),
        (
            {"schedule.decay": "wsd", "schedule.warmup_fraction": 0.9},
            "schedule: warmup_fraction + decay_fraction must be at most 1, given 0.9 + 0.2",
        ),
    ],
)
def test_what_cannot_be_an_update_is_refused(overrides, message):
    document = read(ROOT / "train_config.yaml").with_overrides(overrides)
    with pytest.raises(ConfigError) as caught:
        validate(document, TrainConfig)
    assert message in str(caught.value)


@given(st.floats(0, 0.99), st.floats(0.01, 1))
def test_warm_up_and_decay_of_wsd_fit_into_the_budget(warmup, decay):
    section = {"decay": "wsd", "warmup_fraction": warmup, "decay_fraction": decay}
    if warmup + decay <= 1:
        assert ScheduleConfig.model_validate(section).decay_fraction == decay
    else:
        with pytest.raises(ValueError, match="must be at most 1, given"):
            ScheduleConfig.model_validate(section)
    ScheduleConfig.model_validate({**section, "decay": "cosine"})  # which does not decay at its end alone
