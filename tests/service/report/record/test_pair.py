"""What differs between two studies or arms, and whether their losses can be compared."""

import contextlib

import pytest

from model.errors import UserError
from service.report.record import pair as pairs
from service.storage.opened_study import open_study
from tests.conftest import SPACE
from tests.service.catalogue.asking import fill


def read(tiny, first, second, *, files=False):
    with contextlib.closing(open_study(tiny.settings, pairs.split(first)[0])) as opened:
        return pairs.read(opened, (first, second), files=files)


def test_what_is_shared_stands_apart_from_what_the_best_were_given(tiny):
    tiny.create(1)
    tiny.write(SPACE.replace("1.0e-2", "2.0e-2"), **{"model.dropout": 0.1})
    tiny.create(1, name="other")
    fill(tiny, ({"optimizer.lr": 0.001}, 2.0), ({"optimizer.lr": 0.002}, 2.5))
    fill(tiny, ({"optimizer.lr": 0.015}, 1.75), name="other")
    pair = read(tiny, "tiny", "other")
    differing = {key: cells for key, *cells in pairs.data_and_settings(pair)}
    assert differing.pop("optimizer.lr")[1].startswith("from 0.0001 to 0.02, log; baseline ")
    assert differing == {"model.dropout": ["0.05", "0.1"], "trials": ["2 complete", "1 complete"]}
    assert pairs.configurations(pair) == (
        ("model.dropout", "0.05", "0.1"),
        ("optimizer.lr", "0.001", "0.015"),
    )
    assert [side.shown_name for side in (pair.first, pair.second)] == ["trial 0 of tiny", "trial 0 of other"]
    assert pair.apart is None


def test_a_trial_and_an_arm_are_named_with_their_study(tiny, written):
    tiny.create(1)
    fill(tiny, ({"optimizer.lr": 0.001}, 2.0), ({"optimizer.lr": 0.002}, 2.5))
    for named in ("1", "trial 1"):
        pair = read(tiny, "tiny", f"tiny:{named}")
        assert (pair.first.shown_name, pair.second.shown_name) == ("trial 0 of tiny", "trial 1 of tiny")
    pair = read(written, "tiny:slow", "tiny:fast", files=True)
    assert (pair.first.label, pair.second.losses) == ("slow", {1: 1.5, 2: 1.6, 3: 1.7})
    assert pair.one_study
    assert pairs.data_and_settings(pair) == ()


def test_a_setting_without_effect_is_a_dash_and_alike_ones_are_no_difference(tiny):
    space = """\
space:
  optimizer.name: {type: categorical, choices: [adamw, sgd]}
  optimizer.eps: {type: float, low: 1.0e-9, high: 1.0e-6, log: true, when: {optimizer.name: [adamw]}}
"""
    tiny.write(space + "trials: 2\n")
    tiny.create(2)
    fill(
        tiny,
        ({"optimizer.name": "adamw", "optimizer.eps": 2.0e-8}, 2.0),
        ({"optimizer.name": "sgd"}, 2.5),
    )
    assert pairs.configurations(read(tiny, "tiny:0", "tiny:1")) == (
        ("optimizer.name", "adamw", "sgd"),
        ("optimizer.eps", "2e-08", "–"),
    )


def test_a_loss_of_nothing_is_the_best(tiny):
    tiny.create(2)
    fill(tiny, ({"optimizer.lr": 1.0e-3}, 2.0), ({"optimizer.lr": 2.0e-3}, 0.0))
    pair = read(tiny, "tiny", "tiny:0")
    assert pair.first.shown_name == "trial 1 of tiny"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("tiny:wlid", "study 'tiny': has no arm 'wlid', allowed: wild"),
        ("tiny:", "study 'tiny': has no arm '', allowed: slow, fast, wild"),
        ("tiny:slow", "compare: given tiny:slow twice, allowed: two studies, or two arms as STUDY:ARM"),
    ],
)
def test_an_arm_that_is_not_there_is_one_line(written, second, message):
    with pytest.raises(UserError) as caught:
        read(written, "tiny:slow", second)
    assert str(caught.value) == message


def test_other_titles_and_another_evaluation_are_not_compared(tiny):
    tiny.create(1)
    tiny.write(SPACE, **{"data.num_documents": 500})
    tiny.create(1, name="fewer")
    assert "their corpora are not the same" in read(tiny, "tiny", "fewer").apart
    tiny.write(SPACE, **{"evaluation.batch_size": 7})
    tiny.create(1, name="otherwise")
    assert "evaluated differently" in read(tiny, "tiny", "otherwise").apart
