import json
import math
from dataclasses import replace

import pytest
from scipy import stats

from service.report.published import claims
from service.report.published.claims import about, check, within
from service.report.published.document import Claim
from service.report.record.study_record import Arm
from service.statistics import Estimate
from tests.service.report.conftest import run_of


def claim(kind: str, **test) -> Claim:
    return Claim.model_validate_json(
        json.dumps({"text": "It is so.", "source": "000, section 3", "test": {"kind": kind, **test}})
    )


def verdict(record, kind: str, **test) -> str:
    return check(claim(kind, **test), record).verdict


def losses(*values):
    return {"val_loss": list(values)}


def test_lower_goes_by_the_interval_of_the_paired_difference(record):
    # -0.5, -0.6, -0.7: mean -0.6, sd 0.1, t(0.975; 2) · 0.1/√3 = 0.2484
    found = check(claim("lower", arm="fast", than="slow", metric="val_loss"), record)
    assert found.verdict == "confirmed"
    expected = "val_loss, fast minus slow: -0.60 (95 % interval -0.85 to -0.35, 3 seeds)"
    assert found.shown == expected
    assert check(claim("lower", arm="slow", than="fast", metric="val_loss"), record).verdict == "refuted"


def test_lower_is_not_shown_where_the_interval_holds_0(record_of):
    record = record_of(a=losses(1.0, 1.2, 1.1), b=losses(1.1, 1.1, 1.2))
    assert check(claim("lower", arm="a", than="b", metric="val_loss"), record).verdict == "not shown here"


def test_runs_that_broke_off_are_named_in_the_verdict(record):
    found = check(claim("lower", arm="fast", than="wild", metric="val_loss"), record)
    # seeds 1 and 3 are shared: -1.5, -1.7; t(0.975; 1) · 0.1 = 1.27
    assert found.verdict == "confirmed"
    assert found.shown.endswith("2 seeds); wild: of 3 runs 1 diverged")


def test_one_seed_shows_nothing_but_what_follows_from_the_configuration(record_of):
    record = record_of(
        a={"val_loss": [1.0], "parameters": [10.0]}, b={"val_loss": [2.0], "parameters": [20.0]}
    )
    for kind, test in {
        "lower": {"arm": "a", "than": "b"},
        "ratio": {"of": "a", "to": "b", "about": 0.5},
        "best": {"arm": "a"},
        "between": {"arm": "a", "low": 0.0, "high": 100.0},
    }.items():
        found = check(claim(kind, metric="val_loss", **test), record)
        assert found.verdict == "not shown here", kind
        assert "one seed: no interval" in found.shown
        if kind != "best":
            assert check(claim(kind, metric="parameters", **test), record).verdict == "confirmed", kind


def test_ratios_are_taken_seed_by_seed(record_of):
    record = record_of(a=losses(2.0, 3.3), b=losses(1.0, 1.5))
    ratios = [2.0, 2.2]
    found = check(claim("ratio", of="a", to="b", metric="val_loss", at_least=0.5), record)
    low, high = stats.t.interval(0.95, 1, 2.1, stats.sem(ratios))
    assert found.verdict == "confirmed"
    assert f"2.10 (95 % interval {low:.2f} to {high:.2f}, 2 seeds); claimed at least 0.5" in found.shown
    assert check(claim("ratio", of="a", to="b", metric="val_loss", at_least=5.0), record).verdict == "refuted"
    assert (
        check(claim("ratio", of="a", to="b", metric="val_loss", at_least=2.0), record).verdict
        == "not shown here"
    )
    assert (
        check(claim("ratio", of="a", to="b", metric="val_loss", at_most=4.0), record).verdict == "confirmed"
    )
    assert check(claim("ratio", of="a", to="b", metric="val_loss", at_most=0.5), record).verdict == "refuted"


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (3.7, 0.1, "confirmed"),
        (3.9, 0.05, "confirmed"),  # the interval misses 3.7, the mean is within its tenth
        (4.2, 0.05, "refuted"),
        (3.2, 0.05, "refuted"),
        (4.1, 0.2, "not shown here"),  # reaches into 3.33 to 4.07
        (3.7, 0.5, "not shown here"),  # holds 3.7, and much else
    ],
)
def test_about_asks_for_a_near_mean_and_a_narrow_interval(mean, half, verdict):
    found = Estimate(3, mean, 0.1, (mean - half, mean + half))
    assert about(found, 3.7, None) == verdict
    assert about(found, -3.7, None) == "refuted"


def test_a_tolerance_is_in_the_values_own_unit():
    found = Estimate(3, 5.0, 0.1, (4.9, 5.1))
    assert about(found, 3.7, 1.5) == "confirmed"
    assert about(found, 3.7, 1.0) == "refuted"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1, 10, "confirmed"),
        (5, 10, "not shown here"),
        (7, 10, "refuted"),
        (1, 2, "refuted"),
        (4.5, 5.5, "confirmed"),
    ],
)
def test_within(low, high, verdict):
    assert within(Estimate(3, 5.0, 0.2, (4.5, 5.5)), low, high) == verdict


def test_without_an_interval_nothing_is_within():
    assert within(Estimate(1, 5.0, None, None), -1e9, 1e9) == "not shown here"
    assert within(Estimate(1, 5.0, None, None), 7, 8) == "not shown here"


def test_the_best_is_ahead_of_all_others(record):
    found = check(claim("best", arm="fast", metric="val_loss", among=["slow", "fast"]), record)
    assert found.verdict == "confirmed"
    expected = "val_loss: fast 1.60 ± 0.10, nearest slow 2.20 ± 0.20, difference -0.60"
    assert found.shown.startswith(expected)
    assert check(claim("best", arm="slow", metric="val_loss"), record).verdict == "refuted"
    assert check(claim("worst", arm="fast", metric="val_loss"), record).verdict == "refuted"


def test_best_is_the_highest_where_higher_is_better(record_of):
    record = record_of(a={"accuracy": [0.5, 0.51]}, b={"accuracy": [0.3, 0.31]}, c={"accuracy": [0.1, 0.11]})
    assert check(claim("best", arm="a", metric="accuracy"), record).verdict == "confirmed"
    assert check(claim("worst", arm="c", metric="accuracy"), record).verdict == "confirmed"
    assert check(claim("worst", arm="b", metric="accuracy"), record).verdict == "refuted"
    assert "nearest c" in check(claim("worst", arm="b", metric="accuracy"), record).shown


def test_one_of_many_must_be_ahead_by_more_to_refute(record_of):
    # 0.1, 0.2, 0.3: the interval is 0.2 ± 0.248; made narrower so that 95 % excludes 0 and 1 - 0.05/4 does not
    far = {name: losses(9.0, 9.3, 9.1) for name in ("b", "c", "d")}
    record = record_of(a=losses(1.15, 1.2, 1.25), rival=losses(1.0, 1.0, 1.0), **far)
    test = claim("best", arm="a", metric="val_loss")
    # 0.15, 0.2, 0.25: t(0.975; 2) · 0.05/√3 = 0.124, t(1 - 0.00625; 2) · 0.05/√3 = 0.256
    assert check(test, record).verdict == "not shown here"
    alone = claim("best", arm="a", metric="val_loss", among=["a", "rival"])
    assert check(alone, record).verdict == "refuted"


def test_an_arm_without_a_value_leaves_the_worst_open_and_a_diverged_one_not_the_best(record_of):
    record = record_of(a=losses(1.0, 1.01), b=losses(2.0, 2.01))
    gone = Arm("gone", tuple(run_of("gone", seed, {}, state="diverged") for seed in (0, 1)))
    with_gone = replace(record, arms=(*record.arms, gone))
    best = check(claim("best", arm="a", metric="val_loss"), with_gone)
    worst = check(claim("worst", arm="b", metric="val_loss"), with_gone)
    assert (best.verdict, worst.verdict) == ("confirmed", "not shown here")
    assert "without a value: gone" in worst.shown
    missing = check(claim("best", arm="a", metric="val_loss", among=["a", "b", "nobody"]), record)
    assert missing.verdict == "not shown here"
    assert "without a value: nobody" in missing.shown


def test_a_share_is_of_differences_of_one_seed(record_of):
    record = record_of(sgd=losses(2.0, 2.1), adamw=losses(1.1, 1.2), champion=losses(1.0, 1.1))
    test = {"part": ["sgd", "adamw"], "whole": ["sgd", "champion"], "metric": "val_loss", "about": 0.92}
    found = check(claim("share", **test), record)
    assert found.verdict == "confirmed"
    assert "(sgd minus adamw) ÷ (sgd minus champion): 0.9" in found.shown
    assert check(claim("share", **test | {"about": 0.5}), record).verdict == "refuted"


def test_correlation_is_scipys_pearson_seed_by_seed(record_of):
    points = {
        "a": {"val_loss": [1.0, 1.01], "accuracy": [0.9, 0.899]},
        "b": {"val_loss": [2.0, 2.02], "accuracy": [0.6, 0.598]},
        "c": {"val_loss": [3.0, 2.99], "accuracy": [0.5, 0.501]},
        "d": {"val_loss": [4.0, 4.02], "accuracy": [0.1, 0.102]},
    }
    found = check(claim("correlation", x="val_loss", y="accuracy", about=-0.94), record_of(**points))
    losses, hits = ([of[name] for of in points.values()] for name in ("val_loss", "accuracy"))
    r = [stats.pearsonr([x[i] for x in losses], [y[i] for y in hits]).statistic for i in (0, 1)]
    assert found.verdict == "confirmed"
    assert f"over 4 arms: {math.tanh(sum(map(math.atanh, r)) / 2):.4f}" in found.shown
    two = check(
        claim("correlation", x="val_loss", y="accuracy", about=0.9), record_of(a=points["a"], b=points["b"])
    )
    assert (two.verdict, two.shown) == (
        "not shown here", "r(val_loss, accuracy): needs three arms that share a seed, there are 2",
    )  # fmt: skip
    flat = {name: {**of, "accuracy": [0.5, 0.5]} for name, of in points.items()}
    found = check(claim("correlation", x="val_loss", y="accuracy", about=0.9), record_of(**flat))
    assert found.shown == "r(val_loss, accuracy): all arms have the same value"


def test_between_and_unavailable(record):
    inside = claim("between", arm="slow", metric="val_loss", low=1.0, high=3.0)
    assert check(inside, record).verdict == "confirmed"  # 2.2 ± 4.303 · 0.2/√3 = 1.70 to 2.70
    assert (
        check(claim("between", arm="slow", metric="val_loss", low=2.0, high=3.0), record).verdict
        == "not shown here"
    )
    found = check(claim("unavailable", why="no memory was measured"), record)
    assert (found.text, found.source, found.verdict, found.shown) == (
        "It is so.", "000, section 3", "not shown here", "no memory was measured",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("test", "shown"),
    [
        ({"kind": "lower", "arm": "nobody", "than": "slow", "metric": "val_loss"}, "no run of nobody"),
        (
            {"kind": "between", "arm": "slow", "metric": "accuracy", "low": 0, "high": 1},
            "slow: accuracy was not measured",
        ),
        (
            {"kind": "best", "arm": "slow", "among": ["slow"], "metric": "val_loss"},
            "val_loss: no other arm to compare slow with",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(record, test, shown):
    found = check(claim(**test), record)
    assert (found.verdict, found.shown) == ("not shown here", shown)


def test_arms_that_share_no_seed_cannot_be_compared(record):
    slow, fast, _ = record.arms
    apart = replace(record, arms=(replace(slow, runs=slow.runs[:1]), replace(fast, runs=fast.runs[1:])))
    found = check(claim("lower", arm="fast", than="slow", metric="val_loss"), apart)
    assert (found.verdict, found.shown) == ("not shown here", "val_loss: the arms share no seed")


def test_verdicts_are_the_three_words():
    assert (claims.CONFIRMED, claims.REFUTED, claims.NOT_SHOWN) == ("confirmed", "refuted", "not shown here")
