"""Every verb that reads or changes a study, on one of 5,000 trials, in SQLite and in PostgreSQL."""

import json
import random
import subprocess

import pytest

from tests.service.catalogue.conftest import anywhere  # noqa: F401 - a fixture

pytestmark = pytest.mark.integration
TRIALS = 5_000


def test_every_verb_answers(anywhere, tmp_path):  # noqa: F811
    def ask(*arguments):
        call = anywhere.command(*map(str, arguments))
        done = subprocess.run(**call, capture_output=True, cwd=tmp_path, timeout=300, check=False)
        assert done.returncode == 0, (arguments, done.stderr[-2000:])
        return done.stdout

    anywhere.create(3)
    anywhere.worker().work()
    generator = random.Random(0)
    rows = [f"{3 + generator.random()},{10 ** generator.uniform(-4, -2)}" for _ in range(TRIALS)]
    (tmp_path / "trials.csv").write_text("\n".join(["val_loss,optimizer.lr", *rows, ""]))
    ask("import", "tiny", "--csv", "trials.csv")
    assert f"{TRIALS + 3} complete" in ask("show", "tiny")
    assert f"{TRIALS + 3} complete" in ask("list")
    assert "best" in ask("status", "tiny")
    own_best = min(trial.value for trial in anywhere.trials()[:3])
    assert own_best < 3  # better than all that was taken in: it has a checkpoint
    assert f"{own_best:.4f}" in ask("best", "tiny")
    ask("export", "tiny", "--format", "checkpoint", "--out", "model")
    assert ask("generate", "tiny", "--prompt", "the").startswith("the")
    assert len(json.loads(ask("export", "tiny", "--format", "json", "--out", "-"))) == TRIALS + 3
    for kind in ("csv", "parquet"):
        ask("export", "tiny", "--format", kind, "--out", f"out.{kind}")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == TRIALS + 4
    # of what is read alike a report draws the same, for half a minute
    if anywhere.settings.storage_url.startswith("sqlite"):
        ask("report", "tiny", "--out", "report")
        assert len(json.loads((tmp_path / "report" / "result.json").read_text())["arms"]) == TRIALS + 3
    ask("enqueue", "tiny", "optimizer.lr=0.002")
    ask("fork", "tiny", "--name", "other")
    ask("compare", "tiny", "other")
    ask("rename", "tiny", "named")
    ask("compare", "named", "other", "--html", "pair.html")
    ask("delete", "named", "--yes")
    assert "named" not in ask("list")
