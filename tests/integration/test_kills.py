"""Workers killed at hundreds of random instants lose nothing and add nothing."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from service.storage.opened_study import open_study
from tests.fast_run import STEPS_PER_RUNG, chain, loss

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DRIVER = Path(__file__).with_name("kills.py")
SPACE = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
sampler: {name: random}
baseline: false
"""


PAUSING = SPACE.replace("sampler: {name: random}\n", "")


def finished_under(kills, study, *, longest=0.9):
    """What the driver reports that ran the study to its end and killed its workers meanwhile."""
    command = study.command()
    command["args"] = [sys.executable, str(DRIVER), "tiny", str(kills), "2", str(longest)]
    done = subprocess.run(**command, stdout=subprocess.PIPE, check=True, timeout=400)
    report = json.loads(done.stdout)
    print(report)
    assert report["status"] == 0
    return report


def test_hundreds_of_kills_on_postgresql_lose_nothing(tiny_on_postgresql):
    trials, kills = 60, 300
    tiny_on_postgresql.write(SPACE)
    tiny_on_postgresql.create(trials)
    report = finished_under(kills, tiny_on_postgresql)
    assert report["killed"] >= 200  # fewer where the study was finished first

    assert tiny_on_postgresql.slots() == {"open": 0, "leased": 0, "held": 0, "closed": trials}
    everything = tiny_on_postgresql.trials()
    by_state = Counter(trial.state for trial in everything)
    assert by_state[TrialState.COMPLETE] == trials
    assert set(by_state) == {TrialState.COMPLETE, TrialState.FAIL}
    complete = [trial for trial in everything if trial.state == TrialState.COMPLETE]
    assert len({trial.params["optimizer.lr"] for trial in complete}) == trials

    resumed = 0
    for trial in complete:
        assert trial.value == loss(chain(trial.params["optimizer.lr"], 3 * STEPS_PER_RUNG))
        resumed += "goes_on_with" in trial.user_attrs
    assert resumed > 0
    print(f"{by_state}, {resumed} of {trials} went on where another ended")
    for trial in everything:
        if trial.state == TrialState.FAIL:
            assert "its worker" in trial.user_attrs["ended"]


@pytest.mark.parametrize(
    ("how", "trials", "kills", "longest"),
    [
        (
            "sampler: {name: random}\npruner: {name: asha, reduction_factor: 2, keep_states: 6}\n",
            20,
            100,
            0.9,
        ),
        ("sampler: {name: thaw, keep_states: 6}\nspend: {flops: 1.0e+9}\n", 10, 30, 1.5),
    ],
    ids=["asha", "thaw in operations"],
)
def test_dozens_of_kills_of_a_study_whose_trials_pause_lose_nothing_and_spend_its_tokens_once(
    tiny_on_postgresql, how, trials, kills, longest
):
    tiny_on_postgresql.write(PAUSING + how)
    tiny_on_postgresql.create(trials)
    report = finished_under(kills, tiny_on_postgresql, longest=longest)
    assert report["killed"] >= kills / 2  # fewer where the study was finished first

    opened = open_study(tiny_on_postgresql.settings, "tiny")
    seen, rungs = opened.budget.read(), opened.base_config.rungs
    opened.close()
    assert {row.state for row in seen.slots} == {"closed"}
    price = seen.slots[0].price or 1  # of one space, in which nothing costs more than anything else
    assert {row.price or 1 for row in seen.slots} == {price}
    assert (seen.granted, seen.left) == (trials * rungs[-1] * price, 0)
    everything = tiny_on_postgresql.trials()
    by_state = Counter(trial.state for trial in everything)
    assert set(by_state) == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    ended = {t.number: t for t in everything if t.state in (TrialState.COMPLETE, TrialState.PRUNED)}
    assert sorted(row.trial_number for row in seen.slots) == sorted(ended)
    assert len({trial.params["optimizer.lr"] for trial in ended.values()}) == len(ended)
    for row in seen.slots:
        trial = ended[row.trial_number]
        assert sorted(trial.intermediate_values) == [rung for rung in rungs if rung <= row.tokens]
        steps = len(trial.intermediate_values) * STEPS_PER_RUNG
        assert trial.value == loss(chain(trial.params["optimizer.lr"], steps))
        assert (trial.state == TrialState.COMPLETE) == (row.tokens == rungs[-1])
    states = [path.name for path in Path(tiny_on_postgresql.settings.artifacts).glob("state-*")]
    print(f"{by_state}, {len(states)} states left behind")
    assert sum("pauses" in trial.user_attrs for trial in everything) > trials
    for trial in everything:
        if trial.state == TrialState.FAIL:
            assert "its worker" in trial.user_attrs["ended"]
