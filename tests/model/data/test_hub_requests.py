import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from model.data import hub_requests
from model.data.hub_requests import DamagedError, HubUnreachableError, Requests, plain
from model.errors import CorpusError


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "for url 'https://u:p@ss@hub.example/x?sig=SECRET&a=1' (404)",
            "for url 'https://***@hub.example/x' (404)",
        ),
        ("a\n  b", "a b"),
        ("", "ValueError"),
    ],
)
def test_addresses_are_told_without_passwords_and_signatures(said, expected):
    assert plain(ValueError(said)) == expected


def answer(status, **headers):
    request = httpx2.Request("GET", "https://hub.example/api?token=SECRET")
    return HfHubHTTPError("", response=httpx2.Response(status, headers=headers, request=request))


class Asking:
    """Requests whose waits are noted and not waited; `answers` come one after the other."""

    def __init__(self, monkeypatch, *, patience_seconds=60.0):
        self.said, self.slept, self.now = [], [], 0.0
        monkeypatch.setattr(hub_requests.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(hub_requests.time, "sleep", self.sleep)
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
        self.requests = Requests(
            "a/b", "dataset", "data.hub.id", "a file", self.said.append, patience_seconds
        )

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self, *answers, sizes=None):
        coming = list(answers)

        def act():
            found = coming.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

        return self.requests.patiently(act, size=lambda: (sizes or [0] * 99)[len(coming)])


def test_waits_double_up_to_half_a_minute_and_an_answer_asks_for_its_own(monkeypatch):
    asking = Asking(monkeypatch, patience_seconds=1000.0)
    assert asking(*[answer(503)] * 8, answer(429, **{"retry-after": "7"}), "done") == "done"
    assert asking.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 7.0]
    assert asking.said[0] == "hub.example answers 503 Service Unavailable: trying again in 0.5 s"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "12"}, 12.0),
        ({"ratelimit": '"api";r=0;t=9'}, 9.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:16:40 GMT"}, 100.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, 0.25),
        ({}, 0.25),
    ],
)
def test_how_long_the_hub_asks_to_be_left_alone(monkeypatch, headers, seconds):
    monkeypatch.setattr(hub_requests.time, "time", lambda: 900.0)
    assert hub_requests._asked_wait(headers, default=0.25) == seconds


def test_patience_is_for_what_makes_no_progress(monkeypatch):
    asking = Asking(monkeypatch, patience_seconds=4.0)
    # what was received grows at every attempt: each begins anew
    assert asking(*[answer(503)] * 20, "done", sizes=list(range(99, 0, -1))) == "done"
    assert asking.slept == [0.5] * 20
    asking = Asking(monkeypatch, patience_seconds=4.0)
    with pytest.raises(CorpusError, match=r"4 s more would be longer than the 4 s that are waited"):
        asking(*[answer(503)] * 20)
    assert asking.slept == [0.5, 1.0, 2.0]


def test_a_hub_that_never_answers_is_unreachable_at_the_second_attempt(monkeypatch):
    with pytest.raises(HubUnreachableError) as caught:
        Asking(monkeypatch)(*[httpx2.ConnectError("no route")] * 5)
    assert str(caught.value) == (
        "data.hub.id: a/b cannot be fetched, the hub cannot be reached (no route): allowed without it: a file"
    )
    asking = Asking(monkeypatch)  # and one that has answered once is waited for
    assert asking(answer(503), *[httpx2.ConnectError("no route")] * 4, "done") == "done"


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_a_refusal_is_not_asked_again_and_tells_no_secret(monkeypatch, status):
    asking = Asking(monkeypatch)
    with pytest.raises(
        CorpusError, match=rf"^data\.hub\.id: a/b cannot be fetched: hub\.example answers {status}"
    ) as caught:
        asking(answer(status), "done")
    assert asking.slept == []
    assert "SECRET" not in str(caught.value)


def test_what_arrives_damaged_three_times_is_given_up(monkeypatch):
    asking = Asking(monkeypatch)
    assert asking(DamagedError(), DamagedError(), "done") == "done"
    with pytest.raises(CorpusError, match=r"what hub\.example sends is damaged, time and again"):
        asking(*[DamagedError()] * 3)


def test_whatever_a_library_raises_leaves_as_one_line(monkeypatch):
    requests = Asking(monkeypatch).requests
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with (
        pytest.raises(CorpusError, match=r"^data\.hub\.id: a/b: cannot be fetched: odd thing$"),
        requests.door(),
    ):
        raise RuntimeError("odd\nthing")
    monkeypatch.setenv("https_proxy", "nonsense")
    with (
        pytest.raises(CorpusError, match=r"^https_proxy: no proxy that can be used \(odd\)"),
        requests.door(),
    ):
        raise ValueError("odd")
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(CorpusError, match=r"^HF_ENDPOINT: not the address of a hub"), requests.door():
        pass
