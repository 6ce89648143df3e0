import signal
import subprocess

import pytest

from model.checkpoint import Checkpoint
from tests.conftest import SPACE
from tests.service.winner.asking import best_trial, invoke


@pytest.mark.slow
def test_the_winner_is_trained_longer_and_goes_on_after_a_signal(tiny, tmp_path):
    tiny.write(SPACE, **{"training.tokens": 3000})
    tiny.create(1)
    tiny.worker().work()
    folder = tmp_path / "longer"
    call = tiny.command("train", "tiny", "--tokens", "20000", "--on", "all", "--out", str(folder))
    with subprocess.Popen(**call, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if line.startswith("tokens "):
                process.send_signal(signal.SIGINT)
                break
        said = process.stdout.read()
    assert process.returncode == 130, said
    assert f"stopped: saved in {folder}; the same command goes on with it" in said
    again = subprocess.run(**call, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "going on from step" in again.stdout
    assert "(of titles it trains on)" in again.stdout
    # in one go, it comes to the same bits
    whole = invoke(tiny, "train", "tiny", "--tokens", 20000, "--on", "all", "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    made, other = Checkpoint.read(folder), Checkpoint.read(tmp_path / "whole")
    assert all((made.weights[key] == other.weights[key]).all() for key in made.weights)
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (made.record["trained_on"], made.config.budget_tokens) == ("all", 20_000)
    refused = invoke(tiny, "train", "tiny", "--out", folder)
    assert refused.stderr == f"error: {folder}: has a finished checkpoint; --out names another folder\n"


@pytest.mark.slow
def test_training_from_the_checkpoint_begins_with_its_weights(tiny, tmp_path):
    tiny.create(1)
    tiny.worker().work()
    losses = {}
    for name, more in (("anew", ()), ("continued", ("--from-checkpoint",))):
        done = invoke(tiny, "train", "tiny", "--tokens", 2000, *more, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
        losses[name] = Checkpoint.read(tmp_path / name).record["evaluation"]["val_loss"]
    best = best_trial(tiny).value
    assert losses["continued"] < best < losses["anew"]
