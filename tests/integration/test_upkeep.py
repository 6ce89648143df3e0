"""What a stack goes through in its life: `docs/operating.md`, volumes of an earlier version, and who gets in.

The tests go through one project's life in the order they are written in.
"""

import json
import re
import subprocess
import time

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from tests.integration.conftest import PIPED, ROOT, SPACE, compose_project, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FORMER_PASSWORD = "hptune"
"""The default of earlier versions, whose role `hptune` was the superuser."""


def commands(title):
    """The commands under a heading of `docs/operating.md`."""
    _, heading, section = (ROOT / "docs" / "operating.md").read_text().partition(f"\n### {title}\n")
    assert heading, title
    (block,) = re.findall(r"^```\n(.*?)^```$", section.partition("\n#")[0], re.DOTALL | re.MULTILINE)
    return block


def run(project, script):
    """Run shell commands as a person would, in a folder of the test's own."""
    done = subprocess.run(
        ["bash", "-euc", script], cwd=project.folder, env=project.environment, **PIPED, timeout=300
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}"


def connect_as(project, user, password):
    """The error of connecting over the network, or None."""
    with project.engine() as engine:
        url = engine.url.set(username=user, password=password)
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": 5})
    try:
        with engine.connect():
            return None
    except sa.exc.OperationalError as error:
        return str(error)


def make_former_volume(client, project):
    """The storage's volume as an earlier version left it, with something in it."""
    name = f"{project}_storage"
    client.volumes.create(
        name, labels={"com.docker.compose.project": project, "com.docker.compose.volume": "storage"}
    )
    server = client.containers.run(
        "postgres:15-bookworm",
        environment={
            "POSTGRES_USER": "hptune",
            "POSTGRES_DB": "hptune",
            "POSTGRES_PASSWORD": FORMER_PASSWORD,
        },
        volumes={name: {"bind": "/var/lib/postgresql/data"}},
        stop_signal="SIGINT",
        detach=True,
    )
    sql = "CREATE TYPE kind AS ENUM ('a'); CREATE TABLE former (id SERIAL PRIMARY KEY, kind KIND); "
    sql += "INSERT INTO former (kind) VALUES ('a')"
    over_tcp = [
        "psql",
        "--host=127.0.0.1",
        "--username=hptune",
        "--set=ON_ERROR_STOP=1",
        "--command",
        sql,
        "hptune",
    ]
    try:
        wait_for(
            lambda: server.exec_run(over_tcp, environment={"PGPASSWORD": FORMER_PASSWORD}).exit_code == 0,
            "the former storage",
        )
        server.stop()
    finally:
        server.remove(force=True)


@pytest.fixture(scope="module")
def life(tmp_path_factory, docker_client, images):
    with compose_project(tmp_path_factory.mktemp("upkeep"), docker_client) as project:
        base = project.environment["COMPOSE_FILE"].replace("docker-compose.yml", f"{ROOT}/docker-compose.yml")
        project.environment.update(
            COMPOSE_FILE=base,
            HPTUNE_COMMIT="0123abc",  # as the images that are there
            HPTUNE_LOG="text",
            HPTUNE_DASHBOARD_PORT="0",
            AWS_SECRET_ACCESS_KEY="key-nobody-needs",
            HF_TOKEN="token-of-the-hub",
            HF_ENDPOINT="http://hub.example",
            HTTPS_PROXY="http://proxy.example",
        )
        project.write_study(SPACE, **{"training.tokens": 3_000, "training.rungs": 2})
        (project.folder / "studies" / "second").mkdir()
        study = (project.folder / "studies" / "tiny" / "study.yaml").read_text()
        (project.folder / "studies" / "second" / "study.yaml").write_text(study)
        make_former_volume(docker_client, project.name)
        yield project


def test_upgrade_takes_over_a_former_volume_and_its_superuser(life):
    run(life, commands("Upgrade"))
    with life.engine() as engine, engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT kind FROM former")) == "a"
        connection.execute(sa.text("DROP TABLE former"))  # it is hptune's own
        attributes = "rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls"
        query = f"SELECT rolname, {attributes} FROM pg_roles WHERE rolcanlogin ORDER BY rolname"
        assert connection.execute(sa.text(query)).all() == [("hptune", False), ("postgres", True)]
        with pytest.raises(sa.exc.ProgrammingError, match="must be superuser"):
            connection.execute(sa.text("COPY (SELECT 1) TO PROGRAM 'id'"))
    assert "authentication failed" in connect_as(life, "hptune", FORMER_PASSWORD)
    for password in (FORMER_PASSWORD, life.environment["HPTUNE_STORAGE_PASSWORD"]):
        assert "no pg_hba.conf entry" in connect_as(life, "postgres", password)


def test_another_study_runs_beside_it(life):
    first = life.container("workers")
    life.compose("run", "--detach", "workers", "second", "--trials", "2")
    (second,) = [container for container in life.containers("workers") if container.id != first.id]
    for container in (first, second):
        assert container.wait(timeout=180)["StatusCode"] == 0, container.logs().decode()
    first.reload()
    assert first.attrs["RestartCount"] == 0
    with life.engine() as engine, engine.connect() as connection:
        query = (
            "SELECT study_name, count(*) FROM studies JOIN trials USING (study_id) WHERE state = 'COMPLETE' "
        )
        query += "GROUP BY study_name"
        assert dict(connection.execute(sa.text(query)).all()) == {"tiny": 2, "second": 2}
    said = first.logs().decode()
    assert "study tiny: reading the corpus (file)" in said  # what making it says
    assert re.search(r"^trial 1 complete  val_loss \d\.\d{4}$", said, re.MULTILINE)  # for people
    second.remove()


def test_a_secret_is_where_it_is_used_and_nowhere_else(life):
    environments = {
        service: dict(entry.partition("=")[::2] for entry in life.container(service).attrs["Config"]["Env"])
        for service in ("storage", "workers", "dashboard")
    }
    own = life.environment
    holders = {
        own["HPTUNE_STORAGE_PASSWORD"]: {"storage"},
        own["HPTUNE_DASHBOARD_PASSWORD"]: {"dashboard"},
        own["HF_TOKEN"]: {"workers"},
        own["AWS_SECRET_ACCESS_KEY"]: {"workers"},  # artifacts are in a volume
    }
    for secret, services in holders.items():
        assert {name for name, values in environments.items() if secret in values.values()} == services
    config = json.loads(life.compose("--profile", "*", "config", "--format", "json").stdout)["services"]
    for service in ("create", "workers"):
        assert config[service]["environment"]["HF_ENDPOINT"] == own["HF_ENDPOINT"]
        assert config[service]["environment"]["HTTPS_PROXY"] == own["HTTPS_PROXY"]
    assert "AWS_SECRET_ACCESS_KEY" not in config["status"]["environment"]
    life.environment["HPTUNE_ARTIFACTS"] = "s3://bucket"
    config = json.loads(life.compose("config", "--format", "json").stdout)["services"]
    del life.environment["HPTUNE_ARTIFACTS"]
    assert config["dashboard"]["environment"]["AWS_SECRET_ACCESS_KEY"] == own["AWS_SECRET_ACCESS_KEY"]


def files_of_artifacts(project):
    listing = [
        "run",
        "--rm",
        "--no-deps",
        "-T",
        "--entrypoint",
        "find",
        "create",
        "/artifacts",
        "-type",
        "f",
        "-size",
    ]
    return sorted(
        line for line in project.compose(*listing, "+0").stdout.splitlines() if line.startswith("/artifacts/")
    )


def test_a_backup_is_restored(life):
    trials, files = life.trials(), files_of_artifacts(life)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert len(files) > 4
    run(life, commands("Backup"))
    with life.engine() as engine, engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM trial_values"))
        connection.execute(sa.text("CREATE TABLE later (id INTEGER)"))
    life.compose(
        "run", "--rm", "--no-deps", "--entrypoint", "find", "create", "/artifacts", "-type", "f", "-delete"
    )
    assert files_of_artifacts(life) == []
    run(life, commands("Restore"))
    assert life.trials() == trials
    assert files_of_artifacts(life) == files
    with life.engine() as engine, engine.connect() as connection:
        tables = "SELECT tableowner, count(*) FROM pg_tables WHERE schemaname = 'public' GROUP BY 1"
        assert [row.tableowner for row in connection.execute(sa.text(tables))] == ["hptune"]
        assert connection.scalar(sa.text("SELECT to_regclass('later')")) is None
    life.compose("run", "--rm", "create", "--trials", "+1", "tiny")  # its role may write there
    assert wait_for(lambda: "exited" in {c.status for c in life.containers("workers")}, "the workers' end")


def test_another_password_takes_effect_and_the_former_ends(life):
    former = life.environment["HPTUNE_STORAGE_PASSWORD"]
    life.environment["HPTUNE_STORAGE_PASSWORD"] = "qu'ote\"d $(pa) ss\\w0rd %@:/"
    run(life, commands("Passwords"))
    assert connect_as(life, "hptune", life.environment["HPTUNE_STORAGE_PASSWORD"]) is None
    assert "authentication failed" in connect_as(life, "hptune", former)
    life.container("workers").wait(timeout=120)
    assert len([trial for trial in life.trials() if trial.state == TrialState.COMPLETE]) == 3
    wait_for(
        lambda: life.container("dashboard").attrs["State"]["Health"]["Status"] == "healthy", "the dashboard"
    )
    for service in ("storage", "workers", "dashboard"):
        assert "qu'ote" not in life.logs(service)


def test_a_secret_may_be_a_file_of_the_host(life, monkeypatch):
    former = life.environment["HPTUNE_STORAGE_PASSWORD"]
    for name in ("STORAGE_PASSWORD", "DASHBOARD_PASSWORD", "HF_TOKEN"):
        file = life.folder / name
        file.write_text(f"{name} in a file\n")
        monkeypatch.setitem(life.environment, f"HPTUNE_{name}_FILE", str(file))
    for name in ("HPTUNE_DASHBOARD_PASSWORD", "HF_TOKEN"):  # the storage's file goes before its variable
        monkeypatch.delitem(life.environment, name)
    run(life, commands("Passwords"))
    assert connect_as(life, "hptune", "STORAGE_PASSWORD in a file") is None
    assert "authentication failed" in connect_as(life, "hptune", former)
    ask = (
        "import base64, sys, urllib.request as r; word = base64.b64encode(f'hptune:{sys.argv[1]}'.encode()).decode(); "
        "q = r.Request('http://127.0.0.1:8080/api/studies', headers={'Authorization': 'Basic ' + word}); "
        "print(r.urlopen(q, timeout=4).status)"
    )

    def answer(password):
        return life.container("dashboard").exec_run(["python", "-c", ask, password]).output

    wait_for(lambda: answer("DASHBOARD_PASSWORD in a file") == b"200\n", "the dashboard")
    assert b"HTTP Error 401" in answer("dashboard-secret-2846")
    token = "from huggingface_hub import get_token; print(get_token())"
    asked = life.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "create", "-c", token)
    assert "HF_TOKEN in a file" in asked.stdout
    for service in ("storage", "dashboard"):
        assert "in a file" not in str(life.container(service).attrs["Config"])
    (life.folder / "STORAGE_PASSWORD").write_text("another one\n")
    run(life, commands("Passwords"))
    assert connect_as(life, "hptune", "another one") is None


def test_the_dashboard_knows_when_the_storage_is_away(life):
    dashboard = life.container("dashboard")
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/health', timeout=4).status)"
    wait_for(lambda: dashboard.exec_run(["python", "-c", ask]).output == b"200\n", "health")
    storage = life.container("storage")
    storage.pause()
    try:
        wait_for(
            lambda: b"503" in dashboard.exec_run(["python", "-c", ask]).output, "the answer 503", seconds=60
        )
    finally:
        storage.unpause()
    wait_for(lambda: dashboard.exec_run(["python", "-c", ask]).output == b"200\n", "health", seconds=60)


def test_a_published_storage_wants_a_password_of_its_own(life):
    life.environment["COMPOSE_FILE"] += f":{ROOT}/docker/publish-storage.yml"
    life.environment["HPTUNE_STORAGE_ADDRESS"] = "127.0.0.1"
    for given, says in (("", "a password of your own"), ("hptune", "of at least 12 characters")):
        life.environment["HPTUNE_STORAGE_PASSWORD"] = given
        up = life.compose("up", "--detach", "storage", check=False)
        deadline = time.monotonic() + 20
        said = up.stdout
        while says not in said and time.monotonic() < deadline:
            said = life.logs("storage")
        assert says in said
