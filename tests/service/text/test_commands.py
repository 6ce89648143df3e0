from service.text import commands
from service.text.commands import verb


def test_a_command_is_that_of_the_readers_side():
    assert verb("confirm", "my study", containers=False) == ".venv/bin/python -m service confirm 'my study'"
    assert verb("evaluate", "--study", "hn", containers=False) == "python3 evaluate.py --study hn"
    assert (
        verb("evaluate", "--study", "hn", containers=True) == "docker compose run --rm evaluator --study hn"
    )
    assert verb("confirm", "hn", containers=True) == (
        "docker compose run --rm --entrypoint 'python -m service' evaluator confirm hn"
    )
    assert verb("workers", "hn", containers=True) == "docker compose run --rm workers hn"


def test_a_container_is_known_by_its_image(monkeypatch):
    monkeypatch.setenv("HPTUNE_CONTAINER", "1")
    assert verb("status", "hn").startswith("docker compose run")
    monkeypatch.delenv("HPTUNE_CONTAINER")
    assert verb("status", "hn") == ".venv/bin/python -m service status hn"


def test_the_script_runs_studies():
    assert verb("run", "6", "--study", "my study") == "./hptune.sh 6 --study 'my study'"
    assert verb("run", containers=True) == "./hptune.sh"


def test_an_installed_package_has_a_command_of_its_own(monkeypatch):
    monkeypatch.setattr(commands, "INSTALLED", True)
    assert verb("run", "6", "--study", "hn") == "hptune run 6 --study hn"
    assert verb("evaluate", "--study", "hn") == "hptune evaluate --study hn"
