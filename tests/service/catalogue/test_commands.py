"""Verbs on a study of a size that takes patience."""

import time

import pytest

from tests.service.catalogue.asking import fill, invoke

TRIALS = 5_000


@pytest.mark.integration
def test_five_thousand_trials_are_handled(anywhere, tmp_path):
    anywhere.create(1)
    runs = [({"optimizer.lr": 1e-4 * 1.0009**i}, 2.0 + i / TRIALS) for i in range(TRIALS)]
    seconds = {}

    def timed(*arguments):
        started = time.process_time()
        done = invoke(anywhere, *arguments)
        seconds[arguments[0]] = time.process_time() - started
        assert done.exit_code == 0, done.output
        return done.stdout

    fill(anywhere, *runs)
    file = tmp_path / "t.csv"
    assert "5000 complete" in timed("list")
    assert "trial 0, val_loss 2.0000" in timed("show", "tiny")
    assert f"({TRIALS} trials)" in timed("export", "tiny", "--format", "csv", "--out", file)
    assert f"study second begins with {TRIALS} trials" in timed("fork", "tiny", "--name", "second")
    assert "have the same loss, 2.0000" in timed("compare", "tiny", "second")
    anywhere.create(1, name="third")
    assert f"imported: {TRIALS} trials into study third\n" == timed("import", "third", "--csv", file)
    timed("rename", "third", "fourth")
    assert f"deleted: study fourth, {TRIALS} trials" in timed("delete", "fourth", "--yes")
    print({verb: round(taken, 1) for verb, taken in seconds.items()})
