"""The winner's verbs on a study that has run, as a person calls them."""

import subprocess
from pathlib import Path

import pytest

from model.checkpoint import Checkpoint
from service.winner import commands
from tests.service.winner.asking import best_trial, invoke, trained


def test_a_checkpoint_leaves_in_a_folder_named_for_people(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "HOME", tmp_path)
    done = invoke(finished, "export", "tiny", "--format", "checkpoint")
    best = best_trial(finished)
    folder = tmp_path / "runs" / "models" / "tiny" / f"tiny-trial-{best.number}"
    assert done.stdout == f"written: {folder}\n"
    assert Checkpoint.read(folder).config == trained(best)
    titles = invoke(finished, "generate", "tiny").stdout
    assert invoke(finished, "generate", "tiny", "--model", folder).stdout == titles


@pytest.mark.parametrize("columns", [60, 100, 160])
def test_the_difference_to_the_baseline_fits_and_breaks_no_word(finished, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    why, *lines = invoke(finished, "best", "tiny", "--trial", "1", "--as", "difference").stdout.splitlines()
    assert why.startswith("study tiny: trial 1")
    assert max(map(len, lines)) <= columns
    assert {"optimizer.lr", "baseline", str(finished.trials()[1].params["optimizer.lr"])} <= set(
        " ".join(lines).split()
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("best", "nosuch"), "study 'nosuch' is not in "),
        (
            ("best", "tiny", "--trial", "9"),
            "study 'tiny': trial 9 is not there, allowed: one that has finished",
        ),
        (("generate", "tiny", "--temperature", "0"), "temperature: must be above 0 and finite, given 0.0"),
        (("generate", "tiny", "--temperature", "nan"), "temperature: must be above 0 and finite, given nan"),
        (("generate", "tiny", "--prompt", "a\udcff"), "prompt: must be text in UTF-8, given 'a\\udcff'"),
        (("generate", "tiny", "--model", "/nowhere"), "/nowhere/model.safetensors: there is no such file"),
        (("train", "tiny", "--epochs", "-1"), "--set: training.epochs: must be greater than 0, given -1.0"),
        (
            ("train", "tiny", "--epochs", "1", "--tokens", "5"),
            "the budget is given twice, allowed: one of --epochs",
        ),
        (
            ("train", "tiny", "--set", "data.seed=1"),
            "--set data.seed: the corpus and how it is measured are the study's",
        ),
        (
            ("train", "tiny", "--set", "model.n_head=2", "--from-checkpoint"),
            "--set model.n_head: the weights of a",
        ),
        (("train", "tiny", "--set", "model.depth=2"), "--set: model.depth: unknown key"),
        (("train", "tiny", "--out", "/proc/nope"), "/proc/nope: cannot be written: No such file"),
        (
            ("export", "tiny", "--format", "checkpoint", "--out", "/proc/nope"),
            "/proc/nope: cannot be written: No such file",
        ),
        (
            ("export", "tiny", "--format", "hf", "--out", "/proc/nope"),
            "/proc/nope: cannot be written: No such file",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(finished, arguments, says):
    done = invoke(finished, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_trial_whose_weights_are_gone_is_told_with_the_way_out(finished):
    worst = max(finished.trials(), key=lambda trial: trial.value).number
    done = invoke(finished, "generate", "tiny", "--trial", worst)
    assert done.exit_code == 2
    assert done.stderr.endswith(
        f"keep theirs; to make them again: .venv/bin/python -m service train tiny --trial {worst}\n"
    )
    assert f"trial {worst} has no weights in {Path(finished.settings.artifacts)}" in done.stderr


@pytest.mark.integration
def test_every_verb_works_on_postgresql(tiny_on_postgresql, tmp_path):
    tiny = tiny_on_postgresql
    tiny.create(1)
    tiny.worker().work()
    for call, says in (
        (("best", "tiny"), "# study tiny: the best of 1 complete trials"),
        (("best", "tiny", "--as", "difference"), "study tiny: the best of 1 complete trials"),
        (("generate", "tiny", "--prompt", "the"), "the"),
        (("train", "tiny", "--tokens", "1000", "--out", str(tmp_path / "more")), "training on "),
        (("export", "tiny", "--format", "hf", "--out", str(tmp_path / "hf")), f"written: {tmp_path / 'hf'}"),
    ):
        done = subprocess.run(**tiny.command(*call), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(says)
