import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from optuna.artifacts import upload_artifact

from model.errors import ConfigError
from service.__main__ import cli
from service.dashboard import serve
from service.dashboard.serve import read_password
from service.storage.artifact_stores import open_store
from service.storage.database import open_storage
from service.storage.studies import load_study

PASSWORD = "päss:word 4711"


@contextlib.contextmanager
def served(study, *arguments, **environment):
    """The port of a dashboard process over the study's storage; it ends with status 0 on SIGTERM."""
    command = study.command("dashboard", "--port", "0", *arguments)
    command["env"] |= environment
    with subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            line = process.stdout.readline()
            assert "dashboard of " in line, process.stderr.read()
            assert PASSWORD not in line
            assert PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text()
            yield int(re.search(r" at http://\S+:(\d+)/", line).group(1))
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors, errors


def request(port, path, *, method="GET", body=None, **headers):
    """Status, headers and content of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=names)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def credentials(password, user="hptune"):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def attach(study, name, content, folder):
    """The dashboard's path of a new artifact of the study."""
    (folder / name).write_bytes(content)
    loaded, _ = load_study(open_storage(study.settings), "tiny", study.settings)
    store = open_store(study.settings.artifacts)
    artifact = upload_artifact(artifact_store=store, file_path=str(folder / name), study_or_trial=loaded)
    return f"/artifacts/{loaded._study_id}/{artifact}"


@pytest.fixture(scope="module")
def opened(finished):
    """The port of a dashboard without a password."""
    with served(finished) as port:
        yield port


@pytest.fixture(scope="module")
def locked(finished):
    """The port of a dashboard with a password."""
    with served(finished, HPTUNE_DASHBOARD_PASSWORD=PASSWORD) as port:
        yield port


def test_the_studies_and_their_trials_are_there(opened, finished):
    status, _, content = request(opened, "/api/studies")
    assert status == 200
    assert [study["study_name"] for study in json.loads(content)["study_summaries"]] == ["tiny"]
    status, _, content = request(opened, "/api/studies/1")
    study = json.loads(content)
    assert [trial["values"][0] for trial in study["trials"]] == [trial.value for trial in finished.trials()]
    assert study["objective_names"] == ["val_loss [nats/char]"]
    assert "Does it work?" in study["note"]["body"]
    assert "ended" in study["trials"][0]["note"]["body"]
    assert request(opened, "/dashboard")[0] == 200


def test_a_static_file_needs_no_accept_encoding(opened):
    with socket.create_connection(("127.0.0.1", opened), timeout=20) as connection:
        connection.sendall(b"GET /static/bundle.js HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"200"


@pytest.mark.integration
def test_it_shows_a_study_on_postgresql(tiny_on_postgresql):
    tiny_on_postgresql.create(1)
    with served(tiny_on_postgresql) as port:
        status, _, content = request(port, "/api/studies/1")
    assert status == 200
    assert "Does it work?" in json.loads(content)["note"]["body"]


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1234", "127.0.0.1", "[::1]:80"])
def test_without_a_password_this_machine_is_answered(opened, host):
    assert request(opened, "/api/studies", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1:8080", "", "127.0.0.1.x"],
)
def test_without_a_password_a_name_that_was_rebound_to_this_machine_is_refused(opened, host):
    status, _, content = request(opened, "/api/studies", Host=host)
    assert status == 403
    assert b"tiny" not in content


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/1"),
        ("DELETE", "/api/studies/1/"),
        ("POST", "/api/studies"),
        ("POST", "/api/studies/1/rename"),
        ("POST", "/api/trials/1/tell"),
        ("POST", "/api/trials/1/user-attrs"),
        ("POST", "/api/studies/1/1/skip"),
        ("POST", "/api/studies/1/preference"),
        ("PUT", "/api/studies/1/preference_feedback_component"),
        ("POST", "/api/artifacts/1"),
        ("POST", "/api/artifacts/1/1"),
        ("DELETE", "/api/artifacts/1/1/0-0"),
        ("POST", "/incompatible-rdb-schema"),
        ("POST", "/api/llm/trial_filter_query"),
        ("PATCH", "/api/studies/1/note"),
        ("PUT", "/api/studies/1/note/x"),
    ],
)
def test_nothing_can_be_changed_but_notes(opened, finished, method, path):
    before = finished.trials()
    status, _, content = request(opened, path, method=method, body="{}", Content_Type="application/json")
    assert status == 403
    assert "notes only" in json.loads(content)["reason"]
    assert finished.trials() == before


def test_a_note_can_be_edited_from_the_dashboard_itself(tiny):
    tiny.create(1)
    with served(tiny) as port:

        def edit(body, **headers):
            version = json.loads(request(port, "/api/studies/1")[2])["note"]["version"]
            # what else is in it is not passed on
            content = json.dumps({"version": version + 1, "body": body, "more": ["x"]})
            return request(
                port,
                "/api/studies/1/note",
                method="PUT",
                body=content,
                Content_Type="application/json",
                **headers,
            )[0]

        def note():
            return json.loads(request(port, "/api/studies/1")[2])["note"]["body"]

        long = "a note of many parts " * 300
        assert edit(long) == 204
        assert note() == long
        assert edit("mine", Origin=f"http://127.0.0.1:{port}", Sec_Fetch_Site="same-origin") == 204
        assert note() == "mine"
        assert edit("from a script") == 204
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": f"http://127.0.0.1:{port + 1}"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
        ):
            assert edit("evil", **headers) == 403
        assert note() == "from a script"
        # as a version of this project took it, whose study page then failed for ever
        open_storage(tiny.settings).set_study_system_attr(1, "dashboard:note_str:0", ["a"])
        assert note() == ""


NO_NOTES = {
    "a list as text": '{"version": 2, "body": ["a"]}',
    "a version that is text": '{"version": "2", "body": "a"}',
    "a version that is true": '{"version": true, "body": "a"}',
    "a list": "[]",
    "no body": '{"version": 2}',
    "null": "null",
    "no JSON": "{",
    "not UTF-8": b"\xff",
    "nothing": "",
    "too deep": "[" * 100_000,
    "a number of 5,000 digits": '{"version": 1' + "0" * 5000 + ', "body": "a"}',
    "a lone surrogate": '{"version": 2, "body": "\\ud800"}',
    "too long": json.dumps({"version": 2, "body": "a" * 100_001}),
}


@pytest.mark.parametrize("body", NO_NOTES.values(), ids=NO_NOTES)
@pytest.mark.parametrize("path", ["/api/studies/1/note", "/api/studies/1/1/note"])
def test_a_body_that_is_no_note_is_refused(opened, path, body):
    before = request(opened, "/api/studies/1")[2]
    status, _, content = request(opened, path, method="PUT", body=body, Content_Type="application/json")
    assert status == 400
    assert json.loads(content)["reason"].startswith("a note is JSON: ")
    assert request(opened, "/api/studies/1")[2] == before


@pytest.mark.parametrize("place", ["1/999", "999", "999/1", "999999999", "9999999999", "1/9999999999"])
def test_a_note_on_what_is_not_there_is_not_kept(opened, finished, place):
    status, _, _ = request(
        opened, f"/api/studies/{place}/note", method="PUT", body='{"version": 1, "body": "a"}'
    )
    assert status == (403 if "9999999999" in place else 404)
    attributes = open_storage(finished.settings).get_study_system_attrs(1)
    assert not [key for key in attributes if ":999" in key]


@pytest.mark.parametrize(
    ("name", "content", "shown_as"),
    [
        ("evil.html", b"<script>alert(1)</script>", "application/octet-stream"),
        ("evil.js", b"alert(1)", "application/octet-stream"),
        ("evil.xml", b"<x/>", "application/octet-stream"),
        (
            "evil.svg",
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            "image/svg+xml",
        ),
        ("numbers.csv", b"a,b\n1,2\n", "text/csv"),
    ],
)
def test_an_artifact_is_data_whatever_it_is(opened, finished, tmp_path, name, content, shown_as):
    status, headers, received = request(opened, attach(finished, name, content, tmp_path))
    assert (status, received) == (200, content)
    assert headers["Content-Type"] == shown_as
    assert headers["Content-Disposition"] == "attachment"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert any("sandbox" in policy for policy in headers.get_all("Content-Security-Policy"))
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "artifact",
    ["0-0", "..%2f..%2fetc%2fpasswd", "../../../etc/passwd", "%2e%2e%2fstudy.db", "1/..%2fstudy.db"],
)
def test_what_is_no_artifact_is_not_found(opened, artifact):
    for folder in ("1", "1/1"):
        assert request(opened, f"/artifacts/{folder}/{artifact}")[0] == 404


def test_weights_that_were_removed_are_not_found(opened, finished, tmp_path):
    path = attach(finished, "weights.bin", b"w", tmp_path)
    open_store(finished.settings.artifacts).remove(path.rpartition("/")[2])
    status, _, content = request(opened, path)
    assert status == 404
    assert b"only the best trials keep their weights" in content


@pytest.mark.parametrize("put", ["link", "pipe"])
def test_an_artifact_that_is_no_file_is_not_found_and_holds_nothing_up(opened, finished, tmp_path, put):
    path = attach(finished, "a.txt", b"a", tmp_path)
    stored = Path(finished.settings.artifacts) / path.rpartition("/")[2]
    stored.unlink()
    stored.symlink_to("/proc/self/environ") if put == "link" else os.mkfifo(stored)
    for _ in range(2):
        assert request(opened, path)[0] == 404
    stored.unlink()


def test_half_open_connections_do_not_keep_others_out(opened):
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", opened), timeout=20))
            connection.sendall(
                b"PUT /api/studies/1/note HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
            )
        begun = time.monotonic()
        assert request(opened, "/health")[0] == 200
        assert time.monotonic() - begun < serve.IDLE_SECONDS  # after which they are closed


@pytest.mark.slow
def test_a_request_that_comes_in_drops_is_given_up_and_one_in_pieces_is_answered(monkeypatch):
    monkeypatch.setattr(serve, "IDLE_SECONDS", 2)

    def application(environ, start_response):
        content = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return [content]

    server = serve.server_of(application, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    begin = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.effective_port), timeout=20) as connection:
        for _ in range(2):  # the second on the same connection
            for piece in (begin[:20], begin[20:] % 2, b"a", b"b"):
                connection.sendall(piece)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.read() == b"ab"
        connection.sendall(begin % 10**6)

        def drip():
            for _ in range(600):
                connection.sendall(b"a")
                time.sleep(0.1)

        with pytest.raises(ConnectionError):
            drip()
    server.close()


def test_health_is_the_storages(tiny, monkeypatch):
    monkeypatch.setattr(serve, "PULSE_SECONDS", 0.05)
    monkeypatch.setattr(serve, "LONGEST_SILENCE_SECONDS", 1.0)
    tiny.create(1)
    application = serve.wsgi(tiny.settings, password=None)

    def health():
        statuses = []
        content = application({"PATH_INFO": "/health"}, lambda status, *_: statuses.append(status))
        return int(statuses[0].split()[0]), b"".join(content)

    def await_health(wanted):
        deadline = time.monotonic() + 30
        while health() != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    assert health() == (200, b"ok\n")
    engine = open_storage(tiny.settings).engine
    for before, after in (("studies", "away"), ("away", "studies")):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {before} RENAME TO {after}")
        await_health((503, b"storage away\n") if after == "away" else (200, b"ok\n"))


def test_a_dashboard_may_wait_for_its_storage(tiny):
    command = tiny.command("dashboard", "--port", "0", "--wait")
    with subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith("waiting for the storage and its first study: ")
        tiny.create(1)
        port = int(re.search(r" at http://\S+:(\d+)/", process.stdout.readline()).group(1))
        assert request(port, "/api/studies")[0] == 200
        process.terminate()


def test_pages_may_not_be_framed_and_run_the_dashboards_own_scripts_only(opened):
    _, headers, _ = request(opened, "/dashboard/studies/1")
    policies = "; ".join(headers.get_all("Content-Security-Policy"))
    assert "script-src 'self'" in policies
    assert "'unsafe-inline'" not in policies.partition("script-src")[2].partition(";")[0]
    assert "img-src 'self' data: blob:" in policies
    assert "frame-ancestors 'none'" in policies


def test_with_a_password_every_page_asks_for_it(locked):
    for path in (
        "/",
        "/dashboard",
        "/api/studies",
        "/api/meta",
        "/static/bundle.js",
        "/csv/1",
        "/artifacts/1/0-0",
        "/x",
    ):
        status, headers, content = request(locked, path)
        assert status == 401, path
        assert headers["WWW-Authenticate"].startswith("Basic ")
        assert b"tiny" not in content
    assert request(locked, "/api/studies/1", method="DELETE")[0] == 401


@pytest.mark.parametrize(
    "authorization",
    [
        credentials("wrong"),
        credentials(PASSWORD, user="admin"),
        credentials(""),
        credentials(PASSWORD + "x"),
        credentials(PASSWORD).replace("Basic", "Bearer"),
        "Basic",
        "Basic ====",
        "Basic \xff\xfe",
        "nonsense",
    ],
)
def test_a_wrong_password_is_refused(locked, authorization):
    assert request(locked, "/api/studies", Authorization=authorization)[0] == 401


def test_the_password_opens_it_under_any_name_and_still_changes_nothing(locked):
    authorization = credentials(PASSWORD)
    status, _, content = request(locked, "/api/studies", Authorization=authorization, Host="hptune.example")
    assert status == 200
    assert b"tiny" in content
    assert request(locked, "/api/studies/1", method="DELETE", Authorization=authorization)[0] == 403


def test_health_needs_no_password_and_says_nothing(locked, opened):
    for port in (locked, opened):
        status, _, content = request(port, "/health", Host="any.example")
        assert (status, content) == (200, b"ok\n")


def test_the_password_may_come_from_a_file(finished, tmp_path):
    file = tmp_path / "secret"
    file.write_text(f"{PASSWORD}\n", encoding="utf-8")
    with served(finished, HPTUNE_DASHBOARD_PASSWORD_FILE=str(file)) as port:
        assert request(port, "/api/studies")[0] == 401
        assert request(port, "/api/studies", Authorization=credentials(PASSWORD))[0] == 200


def test_a_password_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    name = "HPTUNE_DASHBOARD_PASSWORD"
    for environment, says in (
        ({name: "a", f"{name}_FILE": "b"}, "are both set"),
        ({f"{name}_FILE": str(tmp_path / "empty")}, "is empty"),
        ({f"{name}_FILE": str(tmp_path / "binary")}, "not text in UTF-8"),
        ({f"{name}_FILE": str(tmp_path / "nosuch")}, "cannot be read: No such file"),
    ):
        with pytest.raises(ConfigError, match=says):
            read_password(environment)
    assert read_password({name: ""}) is None
    assert read_password({}) is None


def refused(study, *arguments):
    """The one line on which the dashboard ends with status 2."""
    environment = study.command()["env"]
    result = CliRunner(env=environment).invoke(cli, ["dashboard", *arguments])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "hptune.example", ""])
def test_without_a_password_it_does_not_listen_beyond_this_machine(finished, host):
    line = refused(finished, "--host", host)
    assert line.startswith(
        f"error: --host {host}: can be reached from other machines and there is no password; "
    )
    assert "HPTUNE_DASHBOARD_PASSWORD" in line


@pytest.mark.slow
def test_with_a_password_or_a_port_published_on_loopback_it_does(finished):
    for host, environment in (
        ("0.0.0.0", {"HPTUNE_DASHBOARD_PASSWORD": PASSWORD}),
        ("0.0.0.0", {"HPTUNE_DASHBOARD_PUBLISHED_ON_LOOPBACK": "1"}),
        ("localhost", {}),
    ):
        with served(finished, "--host", host, **environment) as port:
            assert request(port, "/health")[0] == 200
            assert request(port, "/api/studies", Host="evil.example")[0] in (401, 403)


def test_what_cannot_be_served_is_said_in_one_line(tiny, finished):
    assert "there is no storage yet" in refused(tiny)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        command = finished.command("dashboard", "--port", port)
        done = subprocess.run(**command, capture_output=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: --host 127.0.0.1 --port {port}: cannot be listened at: Address already in use\n"
    )


def test_the_note_of_a_study_says_how_it_stands_now(finished):
    best = min(finished.trials(), key=lambda trial: trial.value)
    with served(finished) as port:
        status, _, content = request(port, "/api/studies/1")
    note = json.loads(content)["note"]["body"]
    assert status == 200
    assert note.startswith("**Does it work?**")
    assert "**State:** 3 trials finished, 0 running, 0 to begin." in note
    assert f"**Best:** trial {best.number}, val\\_loss {best.value:.4f}" in note
    assert "python3 evaluate.py --study tiny" in note
    assert "9,000 training tokens" in note
