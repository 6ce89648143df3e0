"""What is proven about spaces is proven here in full."""

from collections.abc import Iterator

import pytest

from service.study import proof

RANDOM_POINTS = proof.RANDOM_POINTS  # before tests/conftest.py lowers it for the session


@pytest.fixture(scope="module", autouse=True)
def all_random_points() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "RANDOM_POINTS", RANDOM_POINTS)
        yield
