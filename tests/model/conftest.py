import threading
from contextlib import ExitStack
from http.server import ThreadingHTTPServer

import pytest
import torch


@pytest.fixture
def one_thread():
    """Tiny products are slower in several threads, and bits repeat under the same number of threads alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def serve_hub(monkeypatch):
    """Starts a server with the given handler on this machine, which is the hub until the test ends."""
    with ExitStack() as stack:

        def start(handler):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
            return server

        yield start
