"""Losses of a confirmation by arm and seed."""

import pytest

from service.confirmation.verdict import Verdict, judge

SEEDS = (7, 8, 9)


def losses(**arms: list[float]) -> dict[str, dict[int, float]]:
    return {arm: dict(zip(SEEDS, values, strict=False)) for arm, values in arms.items()}


@pytest.fixture
def clear() -> Verdict:
    """`a` is better than the baseline by 1.0, 1.1 and 0.9."""
    found = losses(baseline=[3.0, 3.2, 3.1], a=[2.0, 2.1, 2.2], b=[2.52, 2.6, 2.68])
    return judge(found, SEEDS, {"a": 1.9, "b": 2.6})
