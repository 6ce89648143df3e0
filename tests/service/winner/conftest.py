"""One thread for whatever is trained here."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Two threads of a tiny product wait for each other where other programs hold the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)
