"""The commands and the study files in the documents, each as it stands there."""

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
import yaml

from model.__main__ import main as model_command
from model.config.train_config import TrainConfig
from model.config.yaml_tree import parse_overrides
from service.__main__ import cli
from service.study import definition
from service.study.search_space import leaves
from tests.documents.pages import ROOT, all_blocks

OWN = {".venv/bin/python", "python3", "./hptune.sh", "make", "hptune"}
OTHERS = {"docker", "git", "cp", "export", "pip", "ray", "sbatch", "squeue", "scancel", "kubectl"}
"""What a line of commands begins with: programs of the project, which are checked, and others, which are not."""
ASSIGNMENT = re.compile(r"\w+=\S*")
"""A variable for one command, or a line of `.env`."""
KEYS = {key for key, _ in leaves(TrainConfig().model_dump(mode="json"))}


def commands() -> list[tuple[str, ...]]:
    """Every command of a shell in the documents, once."""
    found = []
    for block in all_blocks(""):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and ASSIGNMENT.fullmatch(words[0]):
                words = words[1:]
            if words:
                found.append(tuple(words))
    return list(dict.fromkeys(found))


def check(command: click.Command, words: list[str]) -> None:
    """Click takes the words, and what they set is a key of the configuration."""
    if isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context(command.name, words)
    given = context.params.get("settings_") or context.params.get("pairs") or ()
    assert set(parse_overrides(given)) <= KEYS


def of_compose(words: list[str]) -> list[str] | None:
    """What `docker compose WORDS` asks of `python -m service`, if anything."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    if words[0] not in ("run", "exec", "up", "restart", "start", "stop", "logs"):
        return None
    at = [i for i, word in enumerate(words) if word in services]
    if words[0] not in ("run", "exec"):
        named = {word for word in words[1:] if not word.startswith("-") and "=" not in word}
        assert named <= set(services)
        return None
    assert at, "a service of docker-compose.yml"
    if words[0] == "exec" or "--entrypoint" in words:
        return None
    return [services[words[at[0]]]["entrypoint"][3], *words[at[0] + 1 :]]


@pytest.mark.parametrize("words", commands(), ids=shlex.join)
def test_a_command_exists_with_its_options(words):
    program, *rest = words
    assert program in OWN | OTHERS, "a block that is no commands has a language behind its fence"
    assert program != "python3" or rest[0] == "evaluate.py", (
        "any Python has it; the rest is the environment's"
    )
    if program == "./hptune.sh":
        assert "--prepare" in rest or check(cli, ["run", *(w for w in rest if w != "--docker")]) is None
    elif program == "hptune":
        check(cli, rest)
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif rest[:2] == ["-m", "service"]:
        check(cli, rest[2:])
    elif rest[:2] == ["-m", "model"]:
        check(model_command, rest[2:])
    elif rest[0] == "evaluate.py":
        check(cli, ["evaluate", *rest[1:]])
    elif rest[0] == "compose" and (asked := of_compose(rest[1:])):
        check(cli, asked)


def test_a_command_that_is_none_is_found_out():
    for words in (["run", "--trails", "3"], ["run", "--set", "optimizer.learning_rate=1"]):
        with pytest.raises((click.UsageError, AssertionError)):
            check(cli, words)


@pytest.mark.parametrize("block", [each for each in all_blocks("yaml") if "question:" in each.text], ids=str)
def test_a_study_in_the_documents_is_one(block, tmp_path: Path):
    file = tmp_path / "studies" / "example" / "study.yaml"
    file.parent.mkdir(parents=True)
    if "\nrun: " in block.text:
        shutil.copytree(ROOT / "studies" / "digits", file.parent, dirs_exist_ok=True)
    file.write_text(block.text)
    loaded = definition.load(file)
    for scale in loaded.tree.get("scales", {}):
        definition.load(file, scale=scale)
