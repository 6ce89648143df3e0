from dataclasses import replace

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from model.errors import ConfigError
from service.confirmation import confirm
from service.storage.database import open_storage
from service.storage.studies import StudyError, load_study
from service.trials.worker import Worker
from service.winner.choice import choose


def added(tiny, lr, value, **given):
    study, _ = load_study(open_storage(tiny.settings), "tiny", tiny.settings)
    distribution = FloatDistribution(1e-5, 1.0, log=True)
    study.add_trial(
        create_trial(
            value=value, params={"optimizer.lr": lr}, distributions={"optimizer.lr": distribution}, **given
        )
    )


def test_a_result_from_elsewhere_is_recommended_with_its_configuration(tiny):
    tiny.create(1)
    added(tiny, 0.004, 0.5)
    winner = choose(tiny.settings, "tiny")
    assert (winner.trial.number, winner.config.optimizer.lr) == (0, 0.004)
    assert winner.config.training.tokens == 9_000
    with pytest.raises(StudyError, match=r"^study 'tiny': trial 0 has no weights in "):
        winner.checkpoint(tiny.settings)
    added(tiny, 0.5, 0.4)
    with pytest.raises(
        ConfigError, match=r"^study 'tiny': trial 1 was added from elsewhere .* given 0.5, allowed"
    ):
        choose(tiny.settings, "tiny")
    assert choose(tiny.settings, "tiny", trial=0).trial.number == 0


def test_a_study_without_a_complete_trial_recommends_nothing(tiny):
    tiny.create(1)
    with pytest.raises(StudyError, match=r"^study 'tiny' has no complete trial \(no trials\)$"):
        choose(tiny.settings, "tiny")


def test_an_arm_is_chosen_by_its_mean_and_not_by_its_luckiest_run(tiny):
    tiny.write(
        "design:\n  list: [{arm: A}, {arm: B, optimizer.lr: 2.0e-3}]\n  seeds: [1, 2]\nbaseline: false\n"
    )
    tiny.create(1)
    study, definition = load_study(open_storage(tiny.settings), "tiny", tiny.settings)
    distributions = definition.space.distributions
    runs = {"A": ((1, 1.0), (2, 1.2)), "B": ((2, 0.9), (1, 1.4))}
    for arm, losses in runs.items():
        for seed, value in losses:
            params = {"seed": seed, "optimizer.lr": 1e-3 if arm == "A" else 2e-3}
            kept = {key: params[key] for key in distributions}
            study.add_trial(
                create_trial(value=value, params=kept, distributions=distributions, user_attrs={"arm": arm})
            )
    winner = choose(tiny.settings, "tiny")
    assert (winner.trial.user_attrs["arm"], winner.losses) == ("A", {1: 1.0, 2: 1.2})
    assert winner.trial.params["seed"] == 1
    assert winner.why == "A, the lowest mean over 2 seeds of 2 arms"


@pytest.mark.slow
def test_a_confirmed_winner_goes_before_the_best_of_the_search(tiny):
    tiny.create(2)
    tiny.worker().work()
    name, _ = confirm.prepare(tiny.settings, "tiny", top=1, seeds=2, say=print)
    worker = tiny.worker()
    Worker(
        tiny.settings, name, owner="w", threads=1, parent=None, drops=lambda *_: False, log=worker.log
    ).work()
    verdict, _ = confirm.conclude(tiny.settings, name)
    winner = choose(tiny.settings, "tiny")
    assert winner.trained_in.study_name == "tiny-confirm"
    assert winner.trial.user_attrs["arm"] == verdict.best.arm
    assert sorted(winner.losses) == sorted(verdict.seeds)
    assert winner.why.startswith(f"{verdict.best.arm}, confirmed by tiny-confirm on 2 fresh seeds")
    assert winner.config.seed == min(verdict.seeds)
    assert winner.checkpoint(tiny.settings).config == winner.config
    elsewhere = replace(tiny.settings, artifacts=str(tiny.folder / "nowhere"))
    with pytest.raises(StudyError, match="has no weights in"):
        winner.checkpoint(elsewhere)
