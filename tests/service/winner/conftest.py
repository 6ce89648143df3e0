"""One thread for whatever is trained here."""

import pytest


@pytest.fixture(autouse=True)
def one_thread_everywhere(one_thread, monkeypatch):
    """Of processes that are started, too."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
