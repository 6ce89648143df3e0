"""An S3 server that can be broken, training that can be interrupted, and a folder to start from."""

import http.client
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from threadpoolctl import threadpool_info, threadpool_limits

from model.training import TrainingRun
from service.search.process import CurveProcess
from tests.earlier_study import EARLIER

KEY, SECRET = "AKIDNOBODYMAYSEE", "secret-nobody-may-see"
HOSTILE = (
    "model.py",
    "service/__init__.py",
    "service/__main__.py",
    "click.py",
    "torch.py",
    "sqlalchemy/__init__.py",
)


class Gate(ThreadingHTTPServer):
    """Stands before an S3 server, and lets through, breaks or keeps silent."""

    daemon_threads = True

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), Passage)
        self.behind = behind
        self.closing = threading.Event()
        self.mend()

    def damage(self, how: str, *, times: float = float("inf")) -> None:
        """Break the next requests: `500`, `cut` in the middle of the body, or `silent`."""
        self.how, self.times, self.broken = how, times, 0

    def mend(self) -> None:
        self.damage("", times=0)


class Passage(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def pass_on(self) -> None:
        how = ""
        if self.server.broken < self.server.times:
            self.server.broken += 1
            how = self.server.how
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length // 2 if how == "cut" else length)
        if how == "silent":
            self.server.closing.wait()
        if how == "500":
            content = b"<Error><Code>InternalError</Code><Message>We are\nsorry</Message></Error>"
            self.answer(500, {}, content)
        elif how and not (how == "cut" and self.command == "GET"):
            self.close_connection = True
        else:
            connection = http.client.HTTPConnection(*self.server.behind)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            self.answer(answer.status, dict(answer.headers), answer.read(), cut=how == "cut")
            connection.close()

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on  # noqa: N815

    def answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            if name.lower() not in ("connection", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def s3_server() -> Iterator[tuple[str, int]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def gate(s3_server, monkeypatch) -> Iterator[Gate]:
    gate = Gate(s3_server)
    thread = threading.Thread(target=gate.serve_forever)
    thread.start()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gate.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield gate
    gate.closing.set()
    gate.shutdown()
    thread.join()
    gate.server_close()


@pytest.fixture
def bucket(gate) -> str:
    name = f"bucket-{uuid.uuid4()}"
    boto3.Session().client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture
def at_step(monkeypatch) -> Callable[[dict[int, Callable[[], None]]], list[int]]:
    """Does things after steps of a training run, by their number, and lists the steps that are made."""
    train_step = TrainingRun._train_step

    def set_up(acts: dict[int, Callable[[], None]]) -> list[int]:
        steps: list[int] = []

        def step(run: TrainingRun) -> None:
            train_step(run)
            steps.append(run.step)
            acts.get(run.step, lambda: None)()

        monkeypatch.setattr(TrainingRun, "_train_step", step)
        return steps

    return set_up


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A folder in which modules of the names of ours and of our libraries lie."""
    folder = tmp_path / "nano gpt"
    for name in HOSTILE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise ImportError('taken from the current folder')\n")
    return folder


@pytest.fixture
def before(tiny):
    """A folder whose storage has the study `before`."""
    tiny.write(EARLIER)
    tiny.create(1, name="before")
    return tiny


@pytest.fixture
def fitting_threads(monkeypatch):
    """Threads of the linear algebra whenever a process of curves is fitted, where two are allowed.

    Other trainings hold the other cores, where such threads would spin.
    """
    seen: list[int] = []
    fitted = CurveProcess.fitted

    def watched(*given, **named):
        seen.extend(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        return fitted(*given, **named)

    monkeypatch.setattr(CurveProcess, "fitted", watched)
    with threadpool_limits(2, user_api="blas"):
        yield seen
        assert {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"} == {2}
