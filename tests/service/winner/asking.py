"""What the tests of this room ask a study."""

import json

from click.testing import CliRunner

from model.config.train_config import TrainConfig
from service.__main__ import cli


def invoke(study, *arguments):
    environment = {key: value for key, value in study.command()["env"].items() if key.startswith("HPTUNE_")}
    return CliRunner(env=environment).invoke(cli, list(map(str, arguments)))


def best_trial(study):
    return min(study.trials(), key=lambda trial: trial.value)


def trained(trial):
    return TrainConfig.model_validate_json(json.dumps(trial.user_attrs["config"]))
