import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from model.errors import ConfigError
from service.machine import notices, status
from service.machine.notices import Notices, Webhook
from service.text.words import GPT
from tests.conftest import SPACE


@pytest.fixture
def receiver():
    """A web server that takes what it is sent, as a chat does."""
    got: list[tuple[str, str, bytes]] = []
    answers: list[int] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Content-Type"], body))
            self.send_response(answers.pop(0) if answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/secret", got=got, answers=answers)
        server.shutdown()
        thread.join()


def test_slack_gets_json_and_ntfy_the_text(receiver):
    assert Webhook(receiver.url).send('hn: "ä"') is None
    assert Webhook(receiver.url, "ntfy").send("hn: ä") is None
    (path, kind, body), (_, plain, text) = receiver.got
    assert (path, kind, json.loads(body)) == ("/secret", "application/json", {"text": 'hn: "ä"'})
    assert (plain, text) == ("text/plain; charset=utf-8", "hn: ä".encode())


def test_a_busy_receiver_is_tried_again_and_one_that_refuses_is_not(receiver, monkeypatch):
    monkeypatch.setattr(notices.tenacity, "wait_exponential", lambda **_: notices.tenacity.wait_none())
    receiver.answers[:] = [503, 429, 200]
    assert Webhook(receiver.url).send("x") is None
    assert len(receiver.got) == 3
    receiver.answers[:] = [404]
    assert Webhook(receiver.url).send("x") == "127.0.0.1: Not Found"
    assert len(receiver.got) == 4


def test_a_receiver_that_is_away_costs_the_notice_and_tells_no_secret():
    assert "secret" not in str(Webhook("http://127.0.0.1:9/secret", tries=1).send("x"))


@pytest.mark.parametrize("url", ["", "hooks.slack.com/secret", "file:///secret", "http://", "http://[secret"])
def test_what_is_no_address_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError, match=r"^HPTUNE_WEBHOOK: not an address") as refused:
        Webhook(url)
    assert "secret" not in str(refused.value)


def snapshot(*, closed, rungs=0, best=None, left=3):
    trials = [] if best is None else [SimpleNamespace(value=best, number=7, params={"lr": 0.1})]
    return SimpleNamespace(
        study=SimpleNamespace(study_name="hn"),
        slots={"closed": closed},
        running=[SimpleNamespace(intermediate_values=dict.fromkeys(range(rungs)))],
        best=trials,
        left=left,
        summary="so far",
        words=GPT,
    )


def told(notices, snapshot, now):
    return list(notices.of(snapshot, now))


def test_a_new_best_is_told_once_and_the_first_one_seen_not_at_all():
    notices = Notices(100)
    assert told(notices, snapshot(closed=1, best=2.0), 0) == []
    assert told(notices, snapshot(closed=2, best=2.0), 1) == []
    assert told(notices, snapshot(closed=3, best=1.5), 2) == [
        "hn: new best val_loss 1.5000 (trial 7): lr 0.1"
    ]
    assert told(notices, snapshot(closed=4, best=1.5), 3) == []


def test_a_study_stalls_once_and_goes_on_once():
    notices = Notices(100)
    assert told(notices, snapshot(closed=1, rungs=1), 0) == []
    assert told(notices, snapshot(closed=1, rungs=2), 50) == []
    assert told(notices, snapshot(closed=1, rungs=2), 149) == []
    [stalled] = told(notices, snapshot(closed=1, rungs=2), 150)
    assert stalled.startswith("hn: stalled, no rung and no end in ")
    assert told(notices, snapshot(closed=1, rungs=2), 500) == []
    assert told(notices, snapshot(closed=1, rungs=3), 501) == ["hn: goes on; so far"]


def test_a_real_study_is_followed_to_its_end(tiny, receiver, monkeypatch):
    monkeypatch.setattr(notices, "POLL_SECONDS", 0.0)
    tiny.write(SPACE)
    tiny.create(1)
    take = status.take(tiny.settings, "tiny")
    looks = []

    def look():
        if len(looks) == 1:
            tiny.worker().work()
        looks.append(take())
        return looks[-1]

    said: list[str] = []
    notices.notify(look, Webhook(receiver.url), stalled_seconds=60, say=said.append)
    [best, end] = said
    assert best.startswith("tiny: new best val_loss ")
    assert end.startswith("tiny: all trials have finished; 1 of 1 trials finished")
    assert [json.loads(body)["text"] for *_, body in receiver.got] == said
