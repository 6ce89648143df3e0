"""How a study stands, in its note."""

import pytest
from markdown_it import MarkdownIt
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from service.dashboard.state import BEGIN, END, state_of, with_state
from service.storage.ownership import slot_mark
from service.text.words import Words

LR = {"optimizer.lr": FloatDistribution(0.0, 1.0)}


def trial(number, value=None, state=TrialState.COMPLETE, lr=0.1, **attributes):
    made = create_trial(
        state=state, value=value, params={"optimizer.lr": lr}, distributions=LR,
        user_attrs=slot_mark("g", number) | attributes,
    )  # fmt: skip
    made.number = number
    return made


def state(
    *trials, left=0, baseline=True, command="./hptune.sh 6 --study hn --set data.path=x", confirmed=None
):
    return state_of(
        "hn", trials, generation="g", left=left, has_baseline=baseline, command=command, confirmed=confirmed
    )


def test_the_best_stands_with_what_it_was_given_and_its_difference_to_the_baseline():
    text = state(trial(0, 2.0), trial(1, 1.9876, lr=0.25), trial(2, state=TrialState.PRUNED))
    assert "**State:** 3 trials finished, 0 running, 0 to begin." in text
    assert "**Best:** trial 1, val\\_loss 1.9876: lr 0\\.25; -0.0124 against the baseline, trial 0." in text
    assert "it is the baseline" in state(trial(0, 1.0))
    assert "baseline" not in state(trial(0, 1.0), baseline=False)
    assert "ASAM" in state(trial(0, 1.0, arm="ASAM"))


def test_of_the_users_own_code_the_metric_is_named_and_no_held_out_titles_are():
    text = state_of(
        "digits", [trial(0, 0.05)], generation="g", left=0, has_baseline=True, command="c",
        words=Words("error rate", ""),
    )  # fmt: skip
    assert "**Best:** trial 0, error rate 0.0500" in text
    assert "service confirm digits" in text
    assert "evaluate" not in text


def test_trials_that_wait_are_none_that_run_and_what_is_left_is_in_the_budgets_unit():
    text = state_of(
        "hn",
        [trial(0, 2.0), *(trial(number, state=TrialState.RUNNING) for number in (1, 2, 3))],
        generation="g",
        left=4,
        shown_left="1.200e15 FLOPs of 3.000e15 FLOPs",
        waiting={1, 3},
        has_baseline=True,
        command="./hptune.sh --study hn",
    )
    assert "1 trials finished, 1 running, 2 waiting at a rung; 1.200e15 FLOPs of 3.000e15 FLOPs left." in text
    assert "status hn --watch" in text


def test_that_it_has_stopped_by_itself_is_said():
    text = state_of(
        "hn",
        [trial(0, 2.0)],
        generation="g",
        left=0,
        has_baseline=True,
        command="c",
        stopped="stopped: *gain*",
    )
    assert "**Note:** stopped\\: \\*gain\\*" in text
    assert "**Note:**" not in state(trial(0, 2.0))


def test_a_confirmation_is_named_and_is_not_asked_for_again():
    winner = {"arm": "trial 1", "study": "hn-confirm", "seeds": [7, 8, 9]}
    text = state(trial(0, 2.0), trial(1, 1.9), confirmed=winner)
    assert "**Confirmed:** trial 1, by hn\\-confirm on 3 fresh seeds." in text
    assert "service confirm" not in text
    assert "evaluate.py --study hn --confirmed   # the winner" in text


def test_what_was_interrupted_and_resumed_is_no_failure():
    cut = trial(1, state=TrialState.FAIL)
    text = state(trial(0, 2.0), cut, trial(2, 1.9, goes_on_with=1))
    assert "Shown as *Fail* and none: 1." in text
    assert "Fail" not in state(trial(0, 2.0), cut)


@pytest.mark.parametrize(
    ("left", "running", "command", "step"),
    [
        (4, 0, "./hptune.sh 6 --study hn --set data.path=x", "./hptune.sh 4 --study hn"),
        (4, 0, "./hptune.sh --study ladder --scale cpu", "./hptune.sh --study ladder --scale cpu"),
        (4, 0, "./hptune.sh 6 --study hn --docker", "./hptune.sh 4 --study hn --docker"),
        (4, 1, "./hptune.sh 6 --study hn", ".venv/bin/python -m service status hn --watch"),
        (0, 0, "./hptune.sh 6 --study hn", "python3 evaluate.py --study hn   # the best on held-out titles"),
        (
            0,
            0,
            "./hptune.sh 6 --study hn --docker",
            "docker compose run --rm evaluator --study hn   # the best",
        ),
    ],
)
def test_the_next_step_can_be_pasted(left, running, command, step):
    trials = [trial(0, 2.0), *(trial(i, state=TrialState.RUNNING) for i in range(1, running + 1))]
    assert f"\n{step}" in state(*trials, left=left, command=command)


def test_only_what_stands_between_the_marks_is_replaced_and_the_marks_are_not_shown():
    note = f"**question**\n\n{BEGIN}\n\nold\n\n{END}\n\n| | |\n|---|---|\n| a | b |\n"
    new = with_state(with_state(note, "newer"), "newest\n")
    html = MarkdownIt("commonmark").enable("table").render(new)
    assert html.startswith("<p><strong>question</strong></p>\n<p>newest</p>\n<table>")
    assert with_state("my own words", "newest") == "my own words"
