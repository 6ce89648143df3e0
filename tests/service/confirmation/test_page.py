import math

from service.confirmation.page import sentence, tables
from service.confirmation.verdict import judge
from service.study.design import BASELINE
from tests.service.confirmation.conftest import SEEDS, losses


def test_what_is_clear_is_said_to_be_clear(clear):
    assert clear.ties == ()
    assert sentence(clear).startswith(
        "a is the best over 3 seeds; -1.00 (95 % interval -1.25 to -0.75, 3 seeds)"
    )
    assert [row[-1] for row in next(iter(tables(clear).values())).rows] == ["best", "out", "out"]
    assert clear.standings[-1].out == "worse than a, after 3 seeds"  # the baseline


def test_a_tie_is_said_to_be_a_tie():
    verdict = judge(losses(baseline=[3.0, 3.2, 3.1], a=[2.0, 2.2, 2.1], b=[2.1, 2.1, 2.2]), SEEDS, {})
    assert verdict.best.arm == "a"
    assert verdict.ties == ("b",)
    assert sentence(verdict).startswith(
        "a tie: a has the lowest mean over 3 seeds and cannot be told from b;"
    )
    assert [row[-1] for row in next(iter(tables(verdict).values())).rows] == [
        "best of a tie", "tied with the best", "out",
    ]  # fmt: skip


def test_the_baseline_may_be_the_best():
    verdict = judge(losses(baseline=[1.0, 1.1, 1.2], a=[2.0, 2.1, 2.2]), SEEDS, {})
    assert (verdict.best.arm, verdict.gain) == (BASELINE, None)  # no finalist is left to have one
    assert (
        sentence(verdict)
        == "baseline is the best over 3 seeds; no finalist has a lower mean than the baseline"
    )
    tied = judge(losses(baseline=[1.0, 1.1, 1.2], a=[1.1, 1.0, 1.5]), SEEDS, {})
    assert sentence(tied).startswith(
        "a tie: baseline has the lowest mean over 3 seeds and cannot be told from a; no finalist has a lower mean than "
        "the baseline: 0.100 (95 % interval"
    )


def test_a_baseline_that_did_not_finish_is_said():
    verdict = judge(losses(baseline=[3.0, math.inf], a=[2.0, 2.1, 2.2]), SEEDS, {})
    assert sentence(verdict) == "a is the best over 3 seeds; the baseline did not finish on every seed"
