"""Studies with trials that look like trained ones, and the verbs as a person calls them."""

import contextlib
import json

import optuna
from click.testing import CliRunner
from optuna.trial import TrialState, create_trial

from service.__main__ import cli
from service.storage.database import open_storage
from service.storage.optuna_trials import insert_trials
from service.storage.ownership import generation_of, slot_mark
from service.storage.studies import corpus_facts, load_study


def invoke(tiny, *arguments, **given):
    environment = {key: value for key, value in tiny.command()["env"].items() if key.startswith("HPTUNE_")}
    return CliRunner(env=environment).invoke(cli, list(map(str, arguments)), **given)


@contextlib.contextmanager
def opened(tiny, name="tiny"):
    storage = open_storage(tiny.settings)
    try:
        yield storage, *load_study(storage, name, tiny.settings)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def fill(tiny, *runs, name="tiny"):
    """Add trials as workers leave them: values by key, and a loss, or None for one that was pruned."""
    with opened(tiny, name) as (storage, study, definition):
        budget = corpus_facts(study)["budget_tokens"]
        trials = []
        for index, (values, loss) in enumerate(runs):
            config = definition.config_for(values).with_tokens(budget)
            params = definition.space.encode(values)
            trials.append(
                create_trial(
                    state=TrialState.PRUNED if loss is None else TrialState.COMPLETE,
                    value=loss,
                    params=params,
                    distributions={key: definition.space.distributions[key] for key in params},
                    intermediate_values={3000: 3.0, 6000: 2.5} | ({} if loss is None else {9000: loss}),
                    user_attrs={
                        "config": json.loads(config.model_dump_json()),
                        "bits_per_byte": 2.0 + index,
                        "ended": "pruned at rung 2 of 3" if loss is None else "complete",
                        **slot_mark(generation_of(study), index),
                    },
                )
            )
        insert_trials(storage.engine, study._study_id, trials)


def plain_study(tiny, name, *runs, direction="minimize", waiting=0):
    """A study as somebody makes it who knows nothing of this project."""
    storage = optuna.storages.RDBStorage(tiny.settings.storage_url)
    study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    distribution = optuna.distributions.FloatDistribution(1e-6, 1.0, log=True)
    for lr, loss in runs:
        study.add_trial(create_trial(value=loss, params={"lr": lr}, distributions={"lr": distribution}))
    for _ in range(waiting):
        study.enqueue_trial({"lr": 0.1})
    storage.remove_session()
    storage.engine.dispose()
    return study
