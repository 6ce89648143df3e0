import re

import pytest
from optuna.trial import TrialState, create_trial

from tests.conftest import SPACE
from tests.service.catalogue.asking import fill, invoke, opened, plain_study


def test_every_study_is_listed_with_what_it_has(anywhere):
    anywhere.create(2)
    fill(
        anywhere,
        ({"optimizer.lr": 0.001}, 2.0),
        ({"optimizer.lr": 0.002}, 1.25),
        ({"optimizer.lr": 0.003}, None),
    )
    plain_study(anywhere, "foreign", (0.1, 1.0), (0.2, 0.5))
    lines = invoke(anywhere, "list").stdout.splitlines()
    rows = [" ".join(line.split()) for line in lines if "complete" in line]
    assert rows[0].startswith("foreign Optuna's own 2 complete 0.5000 20")
    assert rows[1].startswith("tiny search 2 complete, 1 pruned 1.2500 20")


def test_a_trial_that_another_has_gone_on_with_is_no_failure(anywhere):
    anywhere.create(2)
    with opened(anywhere) as (_, study, _):
        study.add_trial(create_trial(state=TrialState.FAIL))
        study.add_trial(create_trial(state=TrialState.FAIL))
        study.add_trial(create_trial(value=2.0, user_attrs={"goes_on_with": 0}))
    said = "1 complete, 1 interrupted, 1 failed"
    assert said in " ".join(invoke(anywhere, "list").stdout.split())
    assert f"trials: {said};" in invoke(anywhere, "show", "tiny").stdout


@pytest.mark.parametrize("columns", [60, 100, 160])
def test_the_list_fits_and_breaks_no_word(tiny, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    tiny.create(2, name="a-study-with-a-name-of-some-length")
    plain_study(tiny, "foreign", (0.1, 1.0))
    *lines, storage = invoke(tiny, "list").stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert {"a-study-with-a-name-of-some-length", "search", "foreign", "1.0000"} <= set(
        " ".join(lines).split()
    )
    assert storage == f"storage: {tiny.settings.storage_shown}"
    assert ("─" in "".join(lines)) == (columns >= 100)


def test_a_storage_without_studies_and_one_that_is_not_there(tiny):
    done = invoke(tiny, "list")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.endswith("there is no storage yet; ./hptune.sh makes one\n")


def test_a_study_is_shown_with_its_space_and_where_it_stands(anywhere):
    anywhere.create(5)
    fill(anywhere, ({"optimizer.lr": 0.001}, 2.0), ({"optimizer.lr": 0.002}, 1.25))
    shown = invoke(anywhere, "show", "tiny").stdout
    assert "question: Does it work?\n" in shown
    assert "optimizer.lr: from 0.0001 to 0.01, log; baseline 0.001\n" in shown
    assert "trials: 2 complete; 0 of 5 slots closed, 5 left\n" in shown
    assert "best: trial 1, val_loss 1.2500: optimizer.lr 0.002\n" in shown
    assert "budget of a trial: 9,000 tokens, " in shown


@pytest.mark.parametrize(
    ("budget", "left"),
    [
        ("trials: 4", "36,000 tokens"),
        ("spend: {tokens: 20000}", "20,000 tokens"),
        ("spend: {hours: 2}", "2 h 00 min of training"),
    ],
)
def test_of_a_study_whose_trials_wait_what_is_left_to_spend_is_shown(tiny, budget, left):
    tiny.write(f"{SPACE.replace('random', 'thaw')}{budget}\n")
    tiny.create(None, total=None)
    shown = invoke(tiny, "show", "tiny").stdout
    assert "  trials: none\n" in shown
    (budget,) = re.findall(r"  budget of the study: (.*)", shown)
    assert budget.endswith(f"; {left} left")


def test_what_is_not_there_is_told(tiny):
    tiny.create(1)
    plain_study(tiny, "foreign", (0.1, 1.0))
    assert invoke(tiny, "show", "nosuch").stderr.endswith("there are: tiny; made by Optuna itself: foreign\n")
    assert "was made by Optuna itself" in invoke(tiny, "show", "foreign").stderr
