import contextlib
import json

import pytest
from optuna.trial import create_trial

from model.errors import UserError
from service.storage import earlier_trials
from service.storage.earlier_trials import RECORDED, recorded_trials, whole_trials, with_recorded
from service.storage.opened_study import open_study
from service.storage.studies import StudyError
from service.study import definition
from service.study.samplers import ThawConfig
from tests.conftest import ROOT
from tests.earlier_study import EARLIER, NOW, results

HARD, EASY = RECORDED


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


# Recorded runs


def asking(tiny, body, **fixed):
    tiny.write(body, **fixed)
    return definition.load(tiny.file)


def test_of_recorded_runs_those_are_seen_that_had_what_the_study_trains(tiny):
    recorded = json.loads((ROOT / HARD / "runs.json").read_text())
    alike = [
        (values, losses[-1])
        for values, losses in recorded["runs"]
        if (values["optimizer.name"], values["optimizer.sharpness.method"]) == ("muon", "none")
        and len(losses) == len(recorded["rungs"])
    ]
    assert len(alike) > 50
    found = recorded_trials(HARD, asking(tiny, NOW, **{"optimizer.name": "muon"}))
    keys = "optimizer.lr", "model.dropout"
    assert [(*(values[key] for key in keys), loss) for values, loss in found] == [
        (*(values[key] for key in keys), loss) for values, loss in alike
    ]
    # of wsd, which is none of its choices, nothing is said
    assert {values.get("schedule.decay") for values, _ in found} == {"cosine", None}


def test_a_study_begins_with_recorded_runs_where_they_say_something_of_it(tiny):
    searched = asking(tiny, NOW)
    found = with_recorded(searched)
    assert found.sampler == ThawConfig(name="thaw", prior=RECORDED)
    assert definition.StudyDefinition.from_snapshot(found.snapshot()).sampler == found.sampler
    own = definition.load("digits")
    assert with_recorded(own) is own


@pytest.mark.parametrize(
    ("space", "fixed", "prior"),
    [
        ("optimizer.clip_norm: {type: float, low: 0.1, high: 2.0}", {}, ()),
        ("optimizer.weight_decay: {type: float, low: 0.01, high: 1.0}", {}, (HARD,)),
        ("optimizer.lr: {type: float, low: 1.0e-3, high: 1.0}", {"optimizer.name": "sgd"}, (HARD,)),
        ("optimizer.name: {type: categorical, choices: [adamw, muon]}", {}, (HARD,)),
        (
            "optimizer.lr: {type: float, low: 1.0e-3, high: 1.0}\n"
            "  optimizer.name: {type: categorical, choices: [sgd, muon]}\nbaseline: false",
            {},
            (HARD,),
        ),
        ("optimizer.lr: {type: float, low: 1.0e-3, high: 1.0}", {"schedule.decay": "linear"}, (EASY,)),
    ],
)
def test_a_study_begins_with_those_that_varied_the_same_with_its_optimizer(tiny, space, fixed, prior):
    found = with_recorded(asking(tiny, f"space:\n  {space}\n", **fixed))
    assert found.sampler == ThawConfig(name="thaw", prior=prior)


def test_without_recorded_runs_a_study_begins_without_any(tiny, monkeypatch):
    monkeypatch.setattr(earlier_trials, "HOME", tiny.folder)
    searched = asking(tiny, NOW)
    assert with_recorded(searched) is searched


@pytest.mark.parametrize("folder", RECORDED)
def test_recorded_runs_are_of_the_study_beside_them(folder):
    recorded = json.loads((ROOT / folder / "runs.json").read_text())
    stored = definition.StudyDefinition.from_snapshot(recorded["definition"])
    assert stored.identity() == definition.load(ROOT / folder).identity()


@pytest.mark.parametrize(
    "text",
    [None, "{", "[]", '{"rungs": [1]}', '{"rungs": [1], "runs": [3]}', '{"rungs": [1], "definition": 3}'],
)
def test_recorded_runs_that_cannot_be_read_are_refused_when_the_study_is_made(tiny, monkeypatch, text):
    monkeypatch.setattr(earlier_trials, "HOME", tiny.folder)
    folder = tiny.folder / "studies" / "mine"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "runs.json").write_text(text)
    tiny.write(NOW + "sampler: {name: thaw, prior: [studies/mine]}\n")
    with pytest.raises(UserError, match=r"recorded runs .*studies/mine/runs\.json cannot be read: "):
        tiny.create(1)


def test_recorded_runs_of_other_parameters_are_refused(tiny):
    body = "space:\n  optimizer.clip_norm: {type: float, low: 0.1, high: 2.0}\n"
    tiny.write(body + f"sampler: {{name: thaw, prior: [{HARD}]}}\n")
    with pytest.raises(StudyError, match="study 'studies/samplers-hard' varies no parameter of this one"):
        tiny.create(1)


def test_a_prior_that_is_named_twice_is_refused(tiny):
    tiny.write(NOW + f"sampler: {{name: thaw, prior: [{HARD}, {EASY}, {HARD}]}}\n")
    with pytest.raises(StudyError, match="study 'studies/samplers-hard' is named twice"):
        tiny.create(1)
