"""What the tests of trials have in common."""

import pytest


@pytest.fixture(scope="session")
def undisturbed_loss(finished):
    return finished.trials()[0].value
