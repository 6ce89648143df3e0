import pytest
import torch


@pytest.fixture
def one_thread():
    """Tiny products are slower in several threads, and bits repeat under the same number of threads alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
