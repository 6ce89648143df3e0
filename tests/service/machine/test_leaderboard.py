import optuna
import pytest

from service.machine.leaderboard import leaderboard

FACTS = {
    "bits_per_byte": 2.0,
    "parameters": 1000,
    "train_seconds": 3.0,
    "evaluation_seconds": 1.0,
    "tokens_per_second": 5000.0,
}


def test_the_operations_of_the_whole_training_stand_beside_the_loss():
    counted = {**FACTS, "flops_per_token": 3_000_000, "tokens": 2_000}
    trials = [optuna.trial.create_trial(value=1.5, user_attrs=facts) for facts in (counted, FACTS)]
    grid = leaderboard(trials)
    column = grid.headings.index("FLOPs")
    assert [row[column] for row in grid.rows] == ["6.000e9", "–"]


@pytest.mark.parametrize(
    ("params", "arm", "shown"),
    [
        ({"optimizer.lr": 0.001, "seed": 7}, {"arm": "6 ASAM"}, "6 ASAM, seed 7"),
        ({"optimizer.lr": 0.001}, {"arm": "6 ASAM"}, "6 ASAM"),
        ({"optimizer.lr": 0.001, "model.dropout": 0.25}, {}, "lr 0.001, dropout 0.25"),
    ],
)
def test_the_arm_of_a_design_stands_for_its_values(params, arm, shown):
    distributions = {
        key: optuna.distributions.CategoricalDistribution([value]) for key, value in params.items()
    }
    trial = optuna.trial.create_trial(
        value=1.5, params=params, distributions=distributions, user_attrs={**FACTS, **arm}
    )
    assert leaderboard([trial]).configurations == (shown,)
