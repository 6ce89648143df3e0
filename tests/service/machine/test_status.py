import io
import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

from service.machine import status
from service.storage.opened_study import open_study
from service.storage.roster import AliveWorker
from service.trials import gpt
from service.trials.promotion import Promotion
from tests.conftest import SPACE
from tests.fast_run import FastRun


def shown(draw, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    draw(console)
    return console.file.getvalue()


def test_a_finished_study_is_shown_in_eighty_columns(finished):
    snapshot = status.take(finished.settings, "tiny")()
    text = shown(lambda console: console.print(status.page(snapshot)))
    assert "study tiny: 3 complete" in text
    assert "3 of 3 trials finished, 0 workers alive, best " in text
    assert "left" not in text
    assert re.search(
        r"^ +\d +\d\.\d{4} +\d\.\d{4} +[\d,]+ +\d\.\d{3}e\d+ +\d s +[\d,]+ *$", text, re.MULTILINE
    )
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("width", [60, 100, 160])
def test_a_running_trial_and_the_workers_are_shown_without_ids_at_any_width(finished, width):
    params = {"optimizer.lr": 0.0012345, "optimizer.name": "muon", "training.batch_size": 32, "seed": 7}
    distributions = {key: CategoricalDistribution([value]) for key, value in params.items()}
    trial = create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)
    arm = create_trial(
        state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs={"arm": "ASAM"}
    )
    workers = [AliveWorker(i, f"host:{i}:0123456789ab", "CPU, 2 threads") for i in range(2)]
    snapshot = replace(status.take(finished.settings, "tiny")(), running=[trial, arm], workers=workers)
    text = shown(lambda console: console.print(status.page(snapshot)), width)
    assert max(map(len, text.splitlines())) <= width
    words = re.split(r"\s+", text)
    assert [word for word in words if word in ("0.001234,", "muon,", "batch_size", "32,")] == [
        "0.001234,", "muon,", "batch_size", "32,",
    ]  # fmt: skip
    assert "ASAM, seed 7" in text
    assert "workers alive: 2 on CPU, 2 threads" in text
    assert "0123456789ab" not in text


def test_a_page_that_is_watched_has_no_more_lines_than_the_terminal(finished):
    snapshot = status.take(finished.settings, "tiny")()
    console = Console(file=io.StringIO(), width=80, height=9)
    whole, fitting = (
        len(console.render_lines(found))
        for found in (status.page(snapshot), status._fitting(snapshot, console))
    )
    assert fitting < 9 < whole


def test_paused_trials_are_shown_as_such_with_the_tokens_that_are_left(tiny, monkeypatch):
    monkeypatch.setattr(gpt, "GptRun", FastRun)
    tiny.write(f"{SPACE}pruner: {{name: asha, reduction_factor: 4}}\nbaseline: false\n")
    tiny.create(4)
    worker = tiny.worker()
    begin = Promotion.next
    calls = itertools.count()

    def next_until_two_wait(promotion):
        if next(calls) == 2:
            worker.stop()
            return None
        return begin(promotion)

    monkeypatch.setattr(Promotion, "next", next_until_two_wait)
    worker.work()
    snapshot = status.take(tiny.settings, "tiny")()
    text = shown(lambda console: console.print(status.page(snapshot)))
    assert "0 trials finished, 2 paused, tokens of 4 trials left, 0 workers alive" in text  # 3⅓ whole ones
    assert len(re.findall(r" 1/3 paused ", text)) == 2
    assert snapshot.left == 4
    assert f"study tiny: {snapshot.states}" in text
    assert snapshot.states == "2 paused"
    opened = open_study(tiny.settings, "tiny")
    opened.budget.stop(opened.budget.read(), "nothing is gained")
    opened.close()
    text = shown(lambda console: console.print(status.page(status.take(tiny.settings, "tiny")())))
    assert "the search has stopped by itself: nothing is gained" in text


def test_watching_a_finished_study_ends(finished):
    text = shown(lambda console: status.watch(status.take(finished.settings, "tiny"), console))
    assert text.count("3 of 3 trials finished") == 2  # the change, and the page at the end


def test_watching_goes_on_while_the_storage_is_away(finished, monkeypatch):
    monkeypatch.setattr(status, "REFRESH_SECONDS", 0.0)
    take = status.take(finished.settings, "tiny")
    outages = [sa.exc.TimeoutError("no connection left")] * 3

    def sometimes():
        if outages:
            raise outages.pop()
        return take()

    assert "3 of 3 trials finished" in shown(lambda console: status.watch(sometimes, console))

    def broken():
        raise KeyError("x")

    with pytest.raises(KeyError):
        shown(lambda console: status.watch(broken, console))


@pytest.mark.parametrize("offset_hours", [0, 9, -8])
def test_the_rate_is_that_of_the_last_hour_in_whatever_time_zone_the_workers_are(offset_hours):
    def noted(moment):  # as Optuna does, by the clock on the worker's wall
        return moment.astimezone(timezone(timedelta(hours=offset_hours))).replace(tzinfo=None)

    now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def trial(minutes_ago, state=TrialState.COMPLETE):
        made = create_trial(state=state, value=1.0 if state == TrialState.COMPLETE else None)
        made.user_attrs["provenance"] = {"utc_offset_seconds": offset_hours * 3600}
        made.datetime_complete = noted(now - timedelta(minutes=minutes_ago))
        made.datetime_start = made.datetime_complete - timedelta(minutes=10)
        return made

    # four in the forty minutes since the first of them began; the failed one does not count
    trials = [trial(30), trial(20), trial(10), trial(0), trial(5, TrialState.FAIL)]
    assert status._rate(trials, now) == pytest.approx(6.0)
    # of a longer study only the last hour
    assert status._rate([trial(90), trial(80), trial(30), trial(0)], now) == pytest.approx(2.0)
    assert status._rate([trial(90)], now) is None


@pytest.mark.parametrize("offset_hours", [0, 9, -8])
def test_a_running_trial_is_as_old_as_it_is_in_whatever_time_zone_its_worker_is(finished, offset_hours):
    trial = create_trial(state=TrialState.RUNNING)
    there = timezone(timedelta(hours=offset_hours))
    trial.datetime_start = (datetime.now(there) - timedelta(minutes=3)).replace(tzinfo=None)
    trial.user_attrs["provenance"] = {"utc_offset_seconds": offset_hours * 3600}
    snapshot = replace(status.take(finished.settings, "tiny")(), running=[trial])
    assert " 3 min 0" in shown(lambda console: console.print(status.page(snapshot)))


def test_time_left_follows_from_the_rate(finished):
    snapshot = status.take(finished.settings, "tiny")()
    slots = {"open": 3, "leased": 1, "held": 0, "closed": 2}
    busy = replace(snapshot, slots=slots, left=4, trials_per_hour=8.0)
    assert busy.seconds_left == pytest.approx(1800)
    assert "2 of 6 trials finished" in busy.summary
    assert "about 30 min 00 s left" in busy.summary
