import pytest

from model.config.section import validate
from model.config.settings_without_effect import settings_without_effect
from model.config.train_config import TrainConfig
from model.config.yaml_tree import parse
from tests.model.config.test_train_config import leaves

WITHOUT_EFFECT = [
    ({}, {"data.path", "data.column"}),
    ({"data.source": "docstrings"}, {"data.path", "data.hub.id", "data.hub.first_rows"}),
    ({"data.source": "file", "data.path": "x"}, {"data.hub.revision"}),
    ({}, {"optimizer.sharpness.rho", "optimizer.sharpness.same_dropout", "optimizer.momentum"}),
    ({"optimizer.sharpness.method": "sam"}, {"optimizer.momentum"}),
    ({"optimizer.sharpness.method": "sam", "model.dropout": 0.0}, {"optimizer.sharpness.same_dropout"}),
    ({"optimizer.name": "sgd"}, {"optimizer.betas", "optimizer.eps", "optimizer.auxiliary_lr"}),
    ({"optimizer.name": "adam"}, {"optimizer.momentum", "optimizer.auxiliary_lr"}),
    ({"optimizer.weight_decay": 0}, {"optimizer.weight_decay_on"}),
    ({"optimizer.name": "muon"}, {"optimizer.weight_decay_on"}),
    ({"model.positions": "sinusoidal"}, {"model.rope_base"}),
    ({"schedule.decay": "constant"}, {"schedule.floor_fraction", "schedule.floor_lr"}),
    ({"schedule.decay": "cosine"}, {"schedule.decay_fraction"}),
    ({"schedule.floor_lr": 1e-5}, {"schedule.floor_fraction"}),
    ({"schedule.decay": "linear"}, {"schedule.decay_shape"}),
    ({"optimizer.name": "adamw"}, {"optimizer.auxiliary_weight_decay"}),
    ({"model.dropout": 0.0}, {"training.r_drop"}),
    ({"model.n_layer": 1}, {"model.value_residual"}),
    ({"tokenizer.pretrained": "gpt2"}, {"tokenizer.model"}),
]


WITH_EFFECT = [
    ({"optimizer.sharpness.method": "sam"}, {"optimizer.sharpness.rho", "optimizer.sharpness.same_dropout"}),
    (
        {"optimizer.sharpness.method": "sam", "model.dropout": 0, "model.attention_dropout": 0.1},
        {"optimizer.sharpness.same_dropout"},
    ),
    (
        {"optimizer.sharpness.method": "sam", "model.dropout": 0, "model.embedding_dropout": 0.1},
        {"optimizer.sharpness.same_dropout"},
    ),
    ({"model.positions": "rope"}, {"model.rope_base"}),
    ({"model.init": "he"}, {"model.init_std"}),
    ({"optimizer.name": "adam"}, {"optimizer.betas", "optimizer.eps", "optimizer.weight_decay_on"}),
    ({"optimizer.name": "sgd"}, {"optimizer.momentum"}),
    ({"optimizer.name": "muon"}, {"optimizer.auxiliary_lr", "optimizer.momentum", "optimizer.betas"}),
    (
        {"schedule.decay": "wsd"},
        {"schedule.decay_fraction", "schedule.floor_fraction", "schedule.decay_shape"},
    ),
    ({"optimizer.name": "muon"}, {"optimizer.auxiliary_weight_decay"}),
    ({"model.dropout": 0.0, "model.attention_dropout": 0.1}, {"training.r_drop"}),
    ({}, {"training.r_drop", "model.value_residual", "tokenizer.model"}),
    ({}, {"optimizer.lr", "optimizer.betas", "model.dropout", "schedule.floor_fraction"}),
]


@pytest.mark.parametrize(("overrides", "keys"), WITHOUT_EFFECT)
def test_settings_that_change_nothing_are_known(overrides, keys):
    run = validate(parse("training: {epochs: 7}", name="f").with_overrides(overrides), TrainConfig)
    assert keys <= settings_without_effect(run)


@pytest.mark.parametrize(("overrides", "keys"), WITH_EFFECT)
def test_settings_that_change_something_are_not_among_them(overrides, keys):
    run = validate(parse("training: {epochs: 7}", name="f").with_overrides(overrides), TrainConfig)
    assert not keys & settings_without_effect(run)


def test_all_of_them_are_keys_of_the_file():
    known = {".".join(path) for path in leaves(TrainConfig().model_dump())}
    for overrides, _ in WITHOUT_EFFECT:
        run = validate(parse("training: {epochs: 7}", name="f").with_overrides(overrides), TrainConfig)
        assert settings_without_effect(run) <= known
