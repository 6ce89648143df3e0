"""The live table as people see it: captures at 60, 100 and 160 columns."""

import io
import re

import pytest
from rich.console import Console

from service.machine.progress import LiveTable

PARAMS = {
    "optimizer.lr": 0.00123456,
    "optimizer.name": "muon",
    "training.batch_size": 32,
    "model.dropout": 0.1,
}


def view_on(console, **options):
    arguments = {"workers": 2, "trials": 4, "trial_seconds": 120.0} | options
    return LiveTable("tiny", console=console, **arguments)


def captured(view, width):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(view._table())
    return console.file.getvalue()


def started(trial, **more):
    return {"event": "trial started", "trial": trial, "params": PARAMS, "slot": trial} | more


def rung(trial, tokens, speed, loss=2.34567):
    return {"event": "rung", "trial": trial, "rung": 1, "rungs": 4, "val_loss": loss, "tokens_per_second": speed,
            "tokens": tokens, "budget_tokens": 400_000}  # fmt: skip


def ended(trial, **more):
    return {
        "event": "trial ended",
        "trial": trial,
        "state": "COMPLETE",
        "val_loss": 2.2,
        "ended": "complete",
    } | more


@pytest.mark.parametrize("width", [60, 100, 160])
def test_every_worker_has_a_row_from_the_start_in_columns_that_fit(width):
    view = view_on(Console(file=io.StringIO(), width=width))
    view.take(0, started(0))
    view.take(0, rung(0, 100_000, 1_000.0))
    text = captured(view, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    cells = [
        re.split(r" {1,}(?!min|s$)(?<!min )", line.strip()) for line in lines if re.match(r" +[01] ", line)
    ]
    assert cells == [
        ["0", "0", "1/4", "2.3457", "1,000", "5 min 00 s"],
        ["1", "–", "starting", "–", "–", "–"],
    ]
    view.gone(1)
    assert "ended" in captured(view, width)


def test_the_time_left_follows_from_the_speed_that_is_measured():
    view = view_on(Console(file=io.StringIO(), width=100), workers=1, trials=2)
    assert "about 4 min 00 s left" in captured(view, 100)  # as measured beforehand
    view.take(0, started(0))
    view.take(
        0, rung(0, 100_000, 1_000.0)
    )  # 300 s of this trial, and 400 s for the next: slower than thought
    assert "about 11 min 40 s left" in captured(view, 100)
    view.take(0, ended(0))
    view.take(0, started(1))
    view.take(0, ended(1))
    assert captured(view, 100).splitlines()[-1] == "2 of 2 trials ended   best 2.2000 (trial 0)   "


@pytest.mark.parametrize("width", [60, 100, 160])
def test_lines_break_no_word_and_name_the_arm_of_a_design(width):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    view = view_on(console)
    view.take(0, started(3))
    view.take(0, started(4, arm="ASAM, small batch", params={**PARAMS, "seed": 7}))
    view.take(0, rung(4, 100_000, 1_000.0))
    view.take(0, ended(4))
    assert console.file.getvalue().splitlines() == [
        "trial 3 started: lr 0.001235, optimizer muon, batch_size 32, dropout 0.1",
        "trial 4 started: ASAM, small batch, seed 7",
        "trial 4  rung 1/4  val_loss 2.3457  1,000 tokens/s  about 12 min 30 s left",
        "trial 4 complete  val_loss 2.2000",
    ]
