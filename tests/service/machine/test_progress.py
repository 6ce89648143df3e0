import io
import json
import re

import pytest
import structlog
from rich.console import Console

from service.machine import progress
from service.machine.progress import JsonLines, LiveTable
from tests.clock import Clock

BUDGET = {"budget_tokens": 9000}


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def view(*, terminal=False, trial_seconds=None, workers=1, trials=3, best=None):
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal, color_system=None)
    of = {"workers": workers, "trials": trials, "trial_seconds": trial_seconds, "best": best}
    return LiveTable("tiny", console=console, **of), console


def lines(console):
    return console.file.getvalue().splitlines()


def table(shown, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(shown._table())
    return console.file.getvalue()


def started(trial=0):
    return {"event": "trial started", "trial": trial, "params": {"optimizer.lr": 0.001}, **BUDGET}


def rung(number, tokens, *, trial=0, rate=1000.0, loss=2.0):
    return {
        "event": "rung", "trial": trial, "rung": number, "rungs": 3, "val_loss": loss, "tokens": tokens,
        "tokens_per_second": rate, **BUDGET,
    }  # fmt: skip


def ended(trial=0, *, state="COMPLETE", said="complete", loss=1.5):
    return {"event": "trial ended", "trial": trial, "state": state, "ended": said, "val_loss": loss}


def test_without_a_terminal_there_is_a_line_for_what_begins_every_rung_and_what_ends(clock):
    shown, console = view()
    for event in (started(), rung(1, 3000), {"event": "progress", "tokens": 4000, **BUDGET}, ended()):
        shown.take(0, event)
    assert lines(console) == [
        "trial 0 started: lr 0.001",
        "trial 0  rung 1/3  val_loss 2.0000  1,000 tokens/s  about 24 s left",
        "trial 0 complete  val_loss 1.5000",
    ]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (ended(said="pruned at rung 2 of 3", state="PRUNED", loss=None), "trial 0 pruned at rung 2 of 3"),
        (ended(said="interrupted", state="FAIL", loss=None), "trial 0 interrupted, its state is saved"),
        (ended(said="out of memory", state="FAIL", loss=None), "trial 0 failed: out of memory"),
        (
            {"event": "audited", "trial": 4, "rung": 2},
            "trial 4 to be pruned at rung 2, runs on for the audit",
        ),
        ({"event": "waiting", "level": "warning", "reason": "busy"}, "worker 7: waiting: busy"),
        ({"event": "odd", "level": "error", "exception": "Traceback"}, "worker 7: odd\nTraceback"),
        ("a line [that] is none", "worker 7: a line [that] is none"),
    ],
)
def test_what_a_person_has_to_know_is_said(clock, event, line):
    shown, console = view()
    shown.take(7, event)
    assert lines(console) == line.splitlines()


@pytest.mark.parametrize("event", ["", "  ", {"event": "resumed", "level": "info"}])
def test_and_nothing_else(clock, event):
    shown, console = view()
    shown.take(0, event)
    assert lines(console) == []


def test_a_trial_that_is_started_again_was_paused_and_goes_on(clock):
    shown, console = view()
    for _ in range(2):
        shown.take(0, started())
    first, again = lines(console)
    assert first.startswith("trial 0 started: ")
    assert again == first.replace("started", "goes on")


@pytest.mark.parametrize(("number", "line"), [(1, "1 paused trial was"), (3, "3 paused trials were")])
def test_paused_trials_that_are_ended_are_counted_once(clock, number, line):
    shown, console = view()
    with shown:
        for trial in range(number):
            said = f"paused at rung 1 of 4, {'not promoted' if trial else 'more than 64 wait'}"
            shown.take(0, {"event": "paused trial ended", "trial": trial, "ended": said})
    assert lines(console)[-1:] == [f"{line} not promoted: ended with the loss of the last rung"]


def test_time_left_follows_from_what_runs_and_from_what_a_trial_takes(clock):
    shown, _ = view(trial_seconds=10.0, workers=2, trials=5)
    shown.take(0, started(0))
    shown.take(1, started(1))
    shown.take(0, rung(1, 3000))
    # worker 0 needs 6,000 tokens more; worker 1 a whole trial of 9,000, as three that have not begun; at 1,000 a second
    assert shown._time_left() == "about 21 s left"
    clock.now += 20  # and then by what trials have taken
    shown.take(0, ended(0))
    assert shown._time_left() == "about 40 s left"  # (3 + 1) trials of 20 s for two workers
    assert "1 of 5 trials ended   best 1.5000 (trial 0)" in table(shown)


def test_speed_between_rungs_is_that_of_the_last_progress(clock):
    shown, _ = view(terminal=True)
    shown.take(0, started())
    for tokens in (0, 500):
        shown.take(0, {"event": "progress", "tokens": tokens, **BUDGET})
        clock.now += 2.0
    row = next(line.replace("│", "").split() for line in table(shown).splitlines() if "250" in line)
    assert row == ["0", "0", "–", "–", "250", "34", "s"]


def test_every_worker_has_a_row_from_the_start_until_the_end(clock):
    shown, _ = view(workers=2)
    assert table(shown).count("starting") == 2
    shown.take(1, started(8))
    assert " 8 " in table(shown)
    shown.gone(1)
    assert " 8 " not in table(shown)
    assert "ended" in table(shown)


PARAMS = {
    "optimizer.lr": 0.00123456,
    "optimizer.name": "muon",
    "training.batch_size": 32,
    "model.dropout": 0.1,
}


@pytest.mark.parametrize("width", [60, 100, 160])
def test_the_table_has_columns_that_fit_at_every_width(clock, width):
    shown, _ = view(workers=2, trials=4)
    shown.take(0, started())
    shown.take(0, rung(1, 3000, rate=10.0, loss=2.34567))
    text = table(shown, width)
    assert max(map(len, text.splitlines())) <= width
    rows = [line.split() for line in text.splitlines() if re.match(" +[01] ", line)]
    assert rows == [
        ["0", "0", "1/3", "2.3457", "10", "10", "min", "00", "s"],
        ["1", "–", "starting", "–", "–", "–"],
    ]


@pytest.mark.parametrize("width", [60, 100, 160])
def test_lines_break_no_word_and_name_the_arm_of_a_design(clock, width):
    console = Console(file=io.StringIO(), width=width)
    shown = LiveTable("tiny", workers=1, trials=2, trial_seconds=None, console=console)
    shown.take(0, {**started(3), "params": PARAMS})
    shown.take(0, {**started(4), "params": {**PARAMS, "seed": 7}, "arm": "ASAM, small batch"})
    assert lines(console) == [
        "trial 3 started: lr 0.001235, optimizer muon, batch_size 32, dropout 0.1",
        "trial 4 started: ASAM, small batch, seed 7",
    ]


def test_the_best_is_the_lowest_and_of_a_failed_trial_nothing_counts(clock):
    shown, _ = view()
    for trial, loss in ((0, 2.0), (1, 1.0), (2, 1.5)):
        shown.take(0, ended(trial, loss=loss))
    shown.take(0, ended(3, state="FAIL", said="interrupted", loss=None))
    assert "3 of 3 trials ended   best 1.0000 (trial 1)" in table(shown)


def test_the_best_of_the_study_stands_until_there_is_a_better_one(clock):
    shown, _ = view(best=(1.25, 7))
    assert "best 1.2500 (trial 7)" in table(shown)
    shown.take(0, ended(8, loss=1.5))
    assert "best 1.2500 (trial 7)" in table(shown)
    shown.take(0, ended(9, loss=1.0))
    assert "best 1.0000 (trial 9)" in table(shown)


def test_in_a_container_lines_are_json_and_what_only_a_table_needs_is_left_out(capsys):
    with structlog.testing.capture_logs() as logged:
        shown = JsonLines(structlog.get_logger())
        with shown:
            shown.take(0, {"event": "rung", "level": "info", "val_loss": 2.0})
            shown.take(0, {"event": "progress", "level": "debug"})
            shown.take(1, "a line that is none")
            shown.take(1, " ")
            shown.say("stopping")
            shown.gone(1)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"event": "rung", "level": "info", "val_loss": 2.0}
    ]
    assert logged == [
        {"event": "output", "log_level": "warning", "process": 1, "line": "a line that is none"},
        {"event": "stopping", "log_level": "info"},
        {"event": "process ended", "log_level": "info", "process": 1},
    ]
