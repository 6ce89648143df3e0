"""How a study stands: workers alive, trials by state, best so far, rate and time left, from the storage alone."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import optuna
from optuna.trial import TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from service import output
from service.machine.leaderboard import configuration, leaderboard
from service.settings import Settings
from service.storage.budget import how_it_stopped
from service.storage.opened_study import open_study
from service.storage.outages import first_line, is_outage
from service.storage.ownership import own_trials
from service.storage.ranking import counted, ranked_trials
from service.storage.roster import AliveWorker
from service.study import audit
from service.text.quantities import shown_seconds
from service.text.terminal import FittingTable
from service.text.words import GPT, Words

REFRESH_SECONDS = 2.0
RATE_WINDOW = timedelta(hours=1)
"""The rate is that of the trials finished in it."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment."""

    study: optuna.Study
    states: str
    slots: dict[str, int]
    left: int
    """Trials that are still to finish, or whole ones that can be paid for (`OpenedStudy.trials_left`)."""
    shown_left: str
    """The same for people."""
    paused: set[int] | None
    """Trials that wait at a rung; None where they never do."""
    workers: list[AliveWorker]
    running: list[optuna.trial.FrozenTrial]
    rungs: list[int]
    best: list[optuna.trial.FrozenTrial]
    trials_per_hour: float | None
    stopped: str | None = None
    """That its search has stopped by itself, and why."""
    words: Words = GPT

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None while there is none."""
        return 3600 * self.left / self.trials_per_hour if self.trials_per_hour else None

    @property
    def summary(self) -> str:
        """One line."""
        of_slots = (
            f"{self.slots['closed']} of {sum(self.slots.values()) - self.slots['held']} trials finished"
        )
        if self.paused is not None:
            of_slots = f"{self.slots['closed']} trials finished, {len(self.paused)} paused"
            of_slots += f", {self.shown_left} left" if self.left else ""
        parts = [
            of_slots,
            f"{len(self.workers)} worker{'s' if len(self.workers) != 1 else ''} alive",
        ]
        if self.best:
            parts.append(f"best {self.best[0].value:.4f} (trial {self.best[0].number})")
        if self.trials_per_hour:
            parts.append(f"{self.trials_per_hour:,.1f} trials/h")
        if self.left and self.paused is None and self.seconds_left is not None:
            parts.append(f"about {shown_seconds(self.seconds_left)} left")
        return ", ".join(parts)


def take(settings: Settings, study_name: str) -> Callable[[], Snapshot]:
    """What takes snapshots of a study. Raises StorageError, StudyError."""
    opened = open_study(settings, study_name, or_fallback=True)
    study, rungs = opened.study, opened.base_config.rungs

    def snapshot() -> Snapshot:
        trials, left = study.get_trials(deepcopy=False), opened.trials_left()
        paused = opened.slots.paused_trials() if opened.budget else None
        return Snapshot(
            study=study,
            states=counted(trials, paused or ()),
            slots=opened.slots.counts(),
            left=left,
            shown_left=opened.shown_left(left),
            paused=paused,
            workers=opened.roster.alive(),
            running=[trial for trial in trials if trial.state == TrialState.RUNNING],
            rungs=list(rungs),
            best=ranked_trials(study)[:SHOWN_BEST],
            trials_per_hour=_rate(own_trials(study, *FINISHED), datetime.now(UTC)),
            stopped=how_it_stopped(study.user_attrs),
            words=opened.definition.words,
        )

    return snapshot


def _rate(trials: list[optuna.trial.FrozenTrial], now: datetime) -> float | None:
    """Finished trials an hour, over the last hour or since the first trial began."""
    finished = [trial for trial in trials if trial.state in FINISHED]
    ends = [_instant(trial, trial.datetime_complete) for trial in finished if trial.datetime_complete]
    recent = [end for end in ends if end > now - RATE_WINDOW]
    if not recent:
        return None
    begun = min(_instant(trial, trial.datetime_start) for trial in finished if trial.datetime_start)
    hours = (now - max(begun, now - RATE_WINDOW)) / timedelta(hours=1)
    return len(recent) / hours if hours > 0 else None


def _instant(trial: optuna.trial.FrozenTrial, clock: datetime) -> datetime:
    """A time as Optuna notes it, by the clock of the trial's worker, which may be in another time zone."""
    seconds = trial.user_attrs.get("provenance", {}).get("utc_offset_seconds")
    # without an offset: noted by an older version, on this machine for all that is known
    return (
        clock.astimezone() if seconds is None else clock.replace(tzinfo=timezone(timedelta(seconds=seconds)))
    )


SHOWN_BEST = 10
"""Of the best trials."""


def page(snapshot: Snapshot, *, best: int = SHOWN_BEST) -> Group:
    """The snapshot for a terminal, with so many of the best trials."""
    parts: list[Text | FittingTable | Group] = [
        Text(f"study {snapshot.study.study_name}: {snapshot.states}"),
        Text(snapshot.summary),
    ]
    if snapshot.stopped:
        parts.append(Text(snapshot.stopped))
    if snapshot.running:
        running = []
        for trial in snapshot.running:
            reports = sorted(trial.intermediate_values.items())
            rungs = (_rungs(trial) if snapshot.words == GPT else None) or len(snapshot.rungs)
            begun = _instant(trial, trial.datetime_start) if trial.datetime_start else datetime.now(UTC)
            since = (datetime.now(UTC) - begun).total_seconds()
            row = (
                str(trial.number),
                f"{len(reports)}/{rungs}{_aside(trial, snapshot)}",
                f"{reports[-1][1]:.4f}" if reports else "–",
                shown_seconds(since),
                configuration(trial),
            )
            running.append(row)
        headings = ("trial", "rung", snapshot.words.metric, "since", "configuration")
        parts.append(FittingTable("running trials", headings, running, wordy=True))
    if snapshot.workers:
        devices = Counter(worker.device for worker in snapshot.workers)
        parts.append(Text("workers alive: " + ", ".join(f"{n} on {device}" for device, n in devices.items())))
    elif snapshot.left:
        parts.append(Text("one that has just been started takes some seconds, on a busy machine a minute"))
    if snapshot.best[:best]:
        table = leaderboard(snapshot.best[:best], snapshot.words)
        parts.append(table.as_rich(snapshot.words.best_trials))
    return Group(*parts)


def _aside(trial: optuna.trial.FrozenTrial, snapshot: Snapshot) -> str:
    if trial.number in (snapshot.paused or ()):
        return " paused"
    return " audited" if audit.MARK in trial.user_attrs else ""


def _rungs(trial: optuna.trial.FrozenTrial) -> int | None:
    """Of the trial's configuration; None before it has one, and of a trial that somebody else runs."""
    try:
        return int(trial.user_attrs["config"]["training"]["rungs"])
    except (KeyError, TypeError, ValueError):
        return None


def _fitting(snapshot: Snapshot, console: Console) -> Group:
    """The page with as many of the best trials as the terminal has lines for: what lies below them would be cut."""
    for best in range(SHOWN_BEST, 0, -1):
        found = page(snapshot, best=best)
        if len(console.render_lines(found)) < console.height:
            return found
    return page(snapshot, best=0)


def watch(
    take_snapshot: Callable[[], Snapshot], console: Console, *, ended: Callable[[], bool] = lambda: False
) -> None:
    """Show the study until its trials are used up, `ended` says so or nobody reads on, also while the storage is away.

    On a terminal the page is kept up to date; elsewhere there is a line whenever something has changed.
    """
    shown = ""
    live = Live(console=console, refresh_per_second=1, transient=True)
    if console.is_terminal:
        live.start()
    try:
        while True:
            try:
                snapshot = take_snapshot()
            except Exception as error:
                if not is_outage(error):
                    raise
                live.update(Text(f"waiting for the storage: {first_line(error)}"), refresh=True)
            else:
                if console.is_terminal:
                    live.update(_fitting(snapshot, console), refresh=True)
                else:
                    line = f"{snapshot.slots['closed']}/{len(snapshot.running)}/{len(snapshot.workers)}"
                    if line != shown:
                        console.print(snapshot.summary, markup=False, soft_wrap=True)
                    shown = line
                if not snapshot.left:
                    break
            if ended():
                break
            if output.failure():
                return
            time.sleep(REFRESH_SECONDS)
    finally:
        live.stop()
    console.print(page(snapshot))
