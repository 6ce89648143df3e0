import contextlib

import pytest
from optuna.trial import create_trial

from service.storage.earlier_trials import whole_trials
from service.storage.opened_study import open_study
from service.storage.studies import StudyError
from tests.earlier_study import EARLIER, NOW, results


def test_whole_trials_are_seen_with_what_this_space_asks_for_also_outside_its_ranges(before):
    results(before, "before", 2.0, 1.5, float("inf"), 1.0)
    before.write(NOW)
    before.create(1)
    with contextlib.closing(open_study(before.settings, "tiny")) as opened:
        other = opened.other("before")
        found = whole_trials(other.study, other.definition, opened.definition)
    assert [loss for _, loss in found] == [2.0, 1.5, 1.0]
    assert [values["optimizer.lr"] for values, _ in found] == pytest.approx([1e-4, 1e-3, 1e-1])
    assert all(
        values["model.dropout"] == 0.05 and values["schedule.decay"] == "cosine" for values, _ in found
    )


OF_TWO = """\
space:
  optimizer.name: {type: categorical, choices: [sgd, adamw]}
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-1, log: true}
  optimizer.momentum: {type: categorical, choices: [0.0, 0.9], when: {optimizer.name: [sgd]}}
sampler: {name: random}
"""


@pytest.mark.parametrize(
    ("settled", "seen"),
    [("adamw", [1.1, 1.2]), ("sgd", [2.1, 2.2, 2.3, 2.4])],
)
def test_of_things_without_an_order_only_those_that_the_study_trains_are_seen(tiny, settled, seen):
    tiny.write(OF_TWO)
    tiny.create(1, name="before")
    with contextlib.closing(open_study(tiny.settings, "before")) as opened:
        ranges = opened.definition.space.distributions
        for loss in (1.1, 1.2, 2.1, 2.2, 2.3, 2.4):
            params = {"optimizer.name": "sgd" if loss > 2 else "adamw", "optimizer.lr": 1e-3}
            if loss > 2:  # the momentum is a number, which says something whatever this study has
                params["optimizer.momentum"] = 0.9 if loss > 2.2 else 0.0
            distributions = {key: ranges[key] for key in params}
            opened.study.add_trial(create_trial(value=loss, params=params, distributions=distributions))
    tiny.write(EARLIER, **{"optimizer.name": settled})
    tiny.create(1)
    with contextlib.closing(open_study(tiny.settings, "tiny")) as opened:
        other = opened.other("before")
        found = whole_trials(other.study, other.definition, opened.definition)
    assert [loss for _, loss in found] == seen
    tiny.write(EARLIER.replace("random", "thaw, prior: [before]"), **{"optimizer.name": settled})
    few = pytest.raises(StudyError, match="has 2 complete trials of what this one trains, fewer than 4")
    with few if len(seen) < 4 else contextlib.nullcontext():
        tiny.create(1, name="now")


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("gone", "study 'gone' is not in "),
        (
            "before",
            "sampler.prior: study 'before' has 2 complete trials of what this one trains, fewer than 4 say nothing;",
        ),
    ],
)
def test_a_prior_without_anything_to_say_is_refused_when_the_study_is_made(before, prior, message):
    results(before, "before", 2.0, 1.5)
    before.write(NOW + f"sampler: {{name: thaw, prior: [{prior}]}}\n")
    with pytest.raises(StudyError) as caught:
        before.create(1)
    assert str(caught.value).startswith(message)


def test_a_prior_of_other_parameters_is_refused(before):
    results(before, "before", 2.0, 1.5, 1.2, 1.0)
    before.write(
        NOW.replace("  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}\n", "")
        + "sampler: {name: thaw, prior: [before]}\n"
    )
    with pytest.raises(StudyError, match=r"study 'before' varies no parameter of this one; take it out$"):
        before.create(1)
