"""What a trial of a study trains, from what the storage has of it."""

import optuna
from optuna.trial import FrozenTrial

from model.config.yaml_tree import Document
from service.storage.ownership import generation_of, is_own
from service.storage.studies import corpus_facts
from service.study.definition import StudyDefinition
from service.study.run_config import RunConfig


def configuration_of(study: optuna.Study, definition: StudyDefinition, trial: FrozenTrial) -> RunConfig:
    """The configuration of a trial with its budget in tokens, as it was trained or, of an added one, as it would be.

    Raises:
        ConfigError: its point is outside the space, or what was stored is another version's.
    """
    if is_own(trial, generation_of(study)) and "config" in trial.user_attrs:
        return definition.base.kind.recorded(Document(f"trial {trial.number}", trial.user_attrs["config"]))
    config = definition.config_for(definition.space.point(trial.params, whole=True))
    return config.with_tokens(corpus_facts(study)["budget_tokens"])
