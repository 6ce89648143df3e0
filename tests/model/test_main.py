import json

import pytest
from click.testing import CliRunner

from model.__main__ import main
from model.config.data import LARGEST_SEED
from tests.conftest import TINY, sentences

SETTINGS = {"data.source": "file", **TINY, "training.tokens": 4_096, "training.rungs": 2}


@pytest.fixture
def run(tmp_path):
    """`python -m model` with these settings and further arguments."""
    (tmp_path / "corpus.txt").write_text("\n".join(sentences(0)))

    def call(settings, *arguments):
        settings = SETTINGS | {"data.path": tmp_path / "corpus.txt"} | settings
        pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        cache = ("--cache", str(tmp_path / "cache"))
        return CliRunner().invoke(main, [*pairs, *cache, "--device", "cpu", *arguments])

    return call


def test_a_run_writes_its_diagnostics_beside_its_checkpoint(run, tmp_path):
    chosen = {"diagnostics.every": 8, "diagnostics.evaluation": "true", "diagnostics.tensorboard": "true"}
    result = run(chosen, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (tmp_path / "out" / "diagnostics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [8, 16, 16, 24, 32, 32]
    assert list((tmp_path / "out" / "tensorboard").rglob("events.out.tfevents.*"))
    assert (tmp_path / "out" / "checkpoint.json").exists()


def test_diagnostics_without_a_folder_to_write_them_to_are_refused(run):
    result = run({"diagnostics.every": 8})
    assert result.exit_code == 2
    assert "error: diagnostics: given without --out" in result.output


def test_a_run_that_diverges_leaves_its_diagnostics(run, tmp_path):
    chosen = {
        "diagnostics.every": 8,
        "optimizer.name": "sgd",
        "optimizer.lr": 1e30,
        "optimizer.clip_norm": "null",
    }
    result = run(chosen, "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    last = json.loads((tmp_path / "out" / "diagnostics.jsonl").read_text().splitlines()[-1])
    assert f"diverged: {last['diverged']}" in result.output


def test_a_folder_that_cannot_be_written_is_told_before_the_training(run):
    result = run({}, "--out", "/proc/nope/out")
    assert result.exit_code == 2
    assert result.output == "error: --out /proc/nope/out: cannot be written: No such file or directory\n"


def test_a_setting_without_effect_is_refused(run):
    result = run({"data.source": "docstrings"})
    assert (result.exit_code, result.output) == (2, "error: --set data.path: has no effect in this run\n")


def test_the_largest_seed_trains(run):
    result = run({"seed": LARGEST_SEED, "data.seed": LARGEST_SEED})
    assert result.exit_code == 0, result.output
