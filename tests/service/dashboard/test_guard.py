import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.dashboard.guard import Guard


def answer(application, path="/api/studies", **environ):
    """Status and body, which is not read unless its items are asked for."""
    statuses = []
    environ |= {"PATH_INFO": path, "REQUEST_METHOD": "GET", "HTTP_HOST": "localhost"}
    body = application(environ, lambda status, *_: statuses.append(status))
    return statuses[0][:3], body


def guard(application, at_once=2):
    return Guard(
        application,
        None,
        at_once=at_once,
        is_there=lambda *_: True,
        refused_note=lambda _: None,
        storage_answers=lambda: True,
    )


def content(environ, start_response):
    start_response("200 OK", [])
    return [b"content"]


def test_whatever_blocks_the_application_health_is_answered_and_others_are_told():
    blocked, entered = threading.Event(), threading.Semaphore(0)

    def hang(environ, start_response):
        entered.release()
        blocked.wait(30)
        return content(environ, start_response)

    guarded = guard(hang)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(answer, guarded) for _ in range(2)]
        for _ in waiting:
            assert entered.acquire(timeout=30)
        assert answer(guarded)[0] == "503"
        assert answer(guarded, "/health")[0] == "200"
        blocked.set()
        for request in waiting:
            status, body = request.result()
            assert (status, b"".join(body)) == ("200", b"content")
            body.close()
    assert answer(guarded)[0] == "200"


def test_a_place_is_free_when_the_answer_has_been_sent_or_given_up():
    guarded = guard(content, at_once=1)
    status, body = answer(guarded)
    assert (status, answer(guarded)[0]) == ("200", "503")
    body.close()
    assert answer(guarded)[0] == "200"


def test_a_place_is_free_after_an_error():
    def fail(environ, start_response):
        raise RuntimeError("broken")

    guarded = guard(fail, at_once=1)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="broken"):
            answer(guarded)


def test_a_file_that_the_server_sends_by_itself_holds_no_place():
    class File(list):
        def seek(self, *_): ...

    def send(environ, start_response):
        start_response("200 OK", [])
        return File([b"content"])

    guarded = guard(send, at_once=1)
    for _ in range(3):
        status, body = answer(guarded, **{"wsgi.file_wrapper": File})
        assert (status, type(body)) == ("200", File)
