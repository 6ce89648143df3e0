"""A document's claims, tested on a study's own runs.

A verdict rests on a 95 % t-interval over seeds, of differences and ratios taken seed by seed. With one seed there is
no interval and the verdict is `not shown here`, unless the metric follows from the configuration alone (parameters,
tokens), where nothing varies. What holds at a reduced scale holds for that scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import numpy as np

from service.report.published.document import (
    DEFAULT_TOLERANCE,
    Between,
    Claim,
    Correlation,
    Extreme,
    Lower,
    Ratio,
    Share,
    Test,
    Unavailable,
    arms_of,
)
from service.report.record.metrics import metric
from service.report.record.study_record import StudyRecord
from service.statistics import CONFIDENCE, Estimate, correlation, differences, estimate
from service.text.numbers import mean_and_sd, number, with_interval

Finding = Literal["confirmed", "refuted", "not shown here"]
CONFIRMED: Finding = "confirmed"
REFUTED: Finding = "refuted"
NOT_SHOWN: Finding = "not shown here"

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class CheckedClaim:
    """A claim with what the study's runs say to it."""

    text: str
    source: str
    verdict: Finding
    shown: str
    """The number that says so, with its interval and seeds; or why there is none."""


class _Absent(Exception):  # noqa: N818 - an outcome, not a fault
    """The study has no number for a test; the message says what is missing."""


def check(claim: Claim, record: StudyRecord) -> CheckedClaim:
    """The claim with its verdict."""
    try:
        verdict, shown = _tested(claim.test, record)
    except _Absent as absent:
        verdict, shown = NOT_SHOWN, str(absent)
    arms = (record.arm(name) for name in dict.fromkeys(arms_of(claim.test)))
    ended_early = [f"{arm.name}: {arm.ended_early}" for arm in arms if arm and arm.ended_early]
    return CheckedClaim(claim.text, claim.source, verdict, "; ".join([shown, *ended_early]))


def within(found: Estimate, low: float, high: float) -> Finding:
    """Confirmed when the whole interval lies from `low` to `high`, refuted when all of it lies outside."""
    if low <= found.low and found.high <= high:
        return CONFIRMED
    return REFUTED if found.high < low or found.low > high else NOT_SHOWN


def about(found: Estimate, published: float, tolerance: float | None) -> Finding:
    """Whether a measured value agrees with a published one.

    Confirmed when the measured mean lies within `tolerance` of the published value and the interval reaches at most
    `tolerance` to either side: it then contains the published value, or comes as near to it as is asked for, and an
    interval that is wide because seeds are few does not confirm whatever lies in it. Refuted when the interval lies
    wholly outside published ± tolerance. Otherwise not shown.

    Args:
        found: with its interval.
        published: the value.
        tolerance: of the value, in its own unit; None is a tenth of it (`DEFAULT_TOLERANCE`).
    """
    allowed = abs(published) * DEFAULT_TOLERANCE if tolerance is None else tolerance
    if abs(found.mean - published) <= allowed and (found.high - found.low) / 2 <= allowed:
        return CONFIRMED
    return REFUTED if found.high < published - allowed or found.low > published + allowed else NOT_SHOWN


def _tested(test: Test, record: StudyRecord) -> tuple[Finding, str]:
    match test:
        case Unavailable():
            return NOT_SHOWN, test.why
        case Lower():
            return _lower(test, record)
        case Ratio():
            return _ratio(test, record)
        case Extreme():
            return _extreme(test, record)
        case Share():
            return _share(test, record)
        case Correlation():
            return _correlation(test, record)
        case Between():
            found = _estimate(_values(record, test.arm, test.metric), test.metric)
            shown = f"{test.metric} of {test.arm}: {with_interval(found)}"
            return within(found, test.low, test.high), shown
        case _:
            assert_never(test)


def _lower(test: Lower, record: StudyRecord) -> tuple[Finding, str]:
    """Confirmed when the interval of the paired difference lies below 0, refuted when no part of it does."""
    values, others = (_values(record, name, test.metric) for name in (test.arm, test.than))
    found = _estimate(differences(values, others), test.metric)
    shown = f"{test.metric}, {test.arm} minus {test.than}: {with_interval(found)}"
    return (CONFIRMED if found.high < 0 else REFUTED if found.low >= 0 else NOT_SHOWN), shown


def _ratio(test: Ratio, record: StudyRecord) -> tuple[Finding, str]:
    """The mean of the ratios seed by seed."""
    values, others = (_values(record, name, test.metric) for name in (test.of, test.to))
    found = _estimate(_ratios(values, others), test.metric)
    shown = f"{test.metric}, {test.of} ÷ {test.to}: {with_interval(found)}"
    if test.about is not None:
        return about(found, test.about, test.tolerance), f"{shown}; published {number(test.about)}"
    if test.at_least is not None:
        return within(
            found, test.at_least, float("inf")
        ), f"{shown}; claimed at least {number(test.at_least)}"
    assert test.at_most is not None, "the schema asks for one of the three"
    return within(found, float("-inf"), test.at_most), f"{shown}; claimed at most {number(test.at_most)}"


def _share(test: Share, record: StudyRecord) -> tuple[Finding, str]:
    """The mean of the shares seed by seed."""
    a, b, c, d = (_values(record, name, test.metric) for name in (*test.part, *test.whole))
    found = _estimate(_ratios(differences(a, b), differences(c, d)), test.metric)
    shown = (
        f"{test.metric}, ({test.part[0]} minus {test.part[1]}) ÷ ({test.whole[0]} minus {test.whole[1]}): "
    )
    shown += f"{with_interval(found)}; published {number(test.about)}"
    return about(found, test.about, test.tolerance), shown


def _extreme(test: Extreme, record: StudyRecord) -> tuple[Finding, str]:
    """Whether an arm is ahead of all others.

    Confirmed when the interval of its paired difference to each of them lies on its side of 0. Refuted when that
    to one of them lies on the other side; as any may do so by chance, the confidence is there
    1 − 0.05/number of others (Bonferroni). To confirm, all must agree, which needs no correction.
    """
    side = -1 if (metric(test.metric).better == "lower") == (test.kind == "best") else 1
    own = _values(record, test.arm, test.metric)
    names = [name for name in test.among or [arm.name for arm in record.arms] if name != test.arm]
    arms = [arm for name in names if (arm := record.arm(name))]
    pairs = {arm.name: differences(own, arm.values(test.metric)) for arm in arms}
    gaps = {name: _estimate(pair, test.metric) for name, pair in pairs.items() if pair}
    if not gaps:
        raise _Absent(f"{test.metric}: no other arm to compare {test.arm} with")
    # what diverged has no value, and cannot be the best
    beaten = {arm.name for arm in arms if test.kind == "best" and arm.all_diverged}
    missing = [name for name in names if name not in gaps and name not in beaten]
    nearest = min(gaps, key=lambda name: side * gaps[name].mean)
    rival = next(arm for arm in arms if arm.name == nearest)
    shown = f"{test.metric}: {test.arm} {_mean(own)}, nearest {nearest} {_mean(rival.values(test.metric))}, "
    shown += f"difference {with_interval(gaps[nearest])}"
    if missing:
        shown += f"; without a value: {', '.join(missing)}"
    confidence = 1 - (1 - CONFIDENCE) / len(gaps)
    strict = [_estimate(pairs[name], test.metric, confidence=confidence) for name in gaps]
    if any(_lies(found, -side) for found in strict):
        return REFUTED, shown
    confirmed = not missing and all(_lies(found, side) for found in gaps.values())
    return (CONFIRMED if confirmed else NOT_SHOWN), shown


def _correlation(test: Correlation, record: StudyRecord) -> tuple[Finding, str]:
    """Pearson's r over the arms, seed by seed; the interval over seeds is taken of atanh r (Fisher's z)."""
    arms = [arm for arm in record.arms if test.among is None or arm.name in test.among]
    points = [(arm.values(test.x), arm.values(test.y)) for arm in arms]
    points = [(x, y) for x, y in points if x.keys() & y.keys()]
    shared = set.intersection(*(x.keys() & y.keys() for x, y in points)) if points else set()
    if len(points) < 3 or not shared:
        raise _Absent(f"r({test.x}, {test.y}): needs three arms that share a seed, there are {len(points)}")
    columns = [([x[seed] for x, _ in points], [y[seed] for _, y in points]) for seed in sorted(shared)]
    if any(len(set(column)) == 1 for pair in columns for column in pair):
        raise _Absent(f"r({test.x}, {test.y}): all arms have the same value")
    found = correlation([float(np.corrcoef(x, y)[0, 1]) for x, y in columns])
    shown = f"r({test.x}, {test.y}) over {len(points)} arms: {with_interval(found)}"
    return about(found, test.about, test.tolerance), f"{shown}; published {number(test.about)}"


def _lies(found: Estimate, side: int) -> bool:
    """The whole interval lies on that side of 0."""
    return found.low > 0 if side > 0 else found.high < 0


def _values(record: StudyRecord, name: str, of: str) -> BySeed:
    arm = record.arm(name)
    if arm is None:
        raise _Absent(f"no run of {name}")
    values = arm.values(of)
    if not values:
        raise _Absent(f"{name}: {of} was not measured" if arm.complete else f"{name}: no complete run")
    return values


def _ratios(values: BySeed, others: BySeed) -> BySeed:
    shared = sorted(values.keys() & others.keys())
    return {seed: values[seed] / others[seed] for seed in shared if others[seed]}


def _estimate(values: BySeed, of: str, *, confidence: float = CONFIDENCE) -> Estimate:
    found = estimate(list(values.values()), confidence=confidence)
    if found is None:
        raise _Absent(f"{of}: the arms share no seed")
    if found.interval is None and metric(of).exact:
        return replace(found, sd=0.0, interval=(found.mean, found.mean))
    return found


def _mean(values: BySeed) -> str:
    return mean_and_sd(estimate(list(values.values())))
