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


def test_a_container_is_known_by_its_image(monkeypatch):
    monkeypatch.setenv("HPTUNE_CONTAINER", "1")
    assert verb("status", "hn").startswith("docker compose run")
    monkeypatch.delenv("HPTUNE_CONTAINER")
    assert verb("status", "hn") == ".venv/bin/python -m service status hn"
