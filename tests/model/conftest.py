import socket

import pytest
import torch

from tests.hub import Hub


@pytest.fixture
def one_thread():
    """Tiny products are slower in several threads, and bits repeat under the same number of threads alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hub_environment(tmp_path, monkeypatch):
    """An empty cache of the hub's library, and nothing from the environment."""
    from huggingface_hub import close_session, constants

    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    close_session()
    yield
    close_session()


@pytest.fixture
def hub(tmp_path, monkeypatch, hub_environment):
    """A hub of this test's own, without repositories."""
    import datasets

    (tmp_path / "hub").mkdir()
    with Hub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def no_connection(monkeypatch, hub_environment):
    """Takes the hub away: every connection is refused."""
    with socket.socket() as reserved:  # bound and not listening
        reserved.bind(("127.0.0.1", 0))

        def disconnect():
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{reserved.getsockname()[1]}")

        yield disconnect
