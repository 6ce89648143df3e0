"""The page of a run."""

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import textwrap
from collections import Counter

from optuna.trial import TrialState

from tests.benchmarks.chaos.driver import Fault
from tests.benchmarks.chaos.faults import KINDS
from tests.benchmarks.chaos.ledger import Check, Run, resumed
from tests.benchmarks.chaos.observer import AT_WORK_SECONDS
from tests.benchmarks.chaos.stack import LEASE_SECONDS, STORE_MEGABYTES, WORKERS
from tests.integration.conftest import ROOT


def render(run: Run, checks: list[Check], arguments: argparse.Namespace) -> str:
    violated = [name for name, held, _ in checks if not held]
    failed = Counter(t.user_attrs.get("ended", "-") for t in run.trials if t.state == TrialState.FAIL)
    command = (
        f"--minutes {arguments.minutes:g} --faults {arguments.faults} --trials {arguments.trials} "
        f"--seed {arguments.seed}"
    )
    parts = [
        "# Chaos: a study under faults, worker capacity counted",
        _paragraph(
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}, {os.cpu_count()} cores "
            f"({platform.machine()}). {WORKERS} containers of one worker with one thread each, PostgreSQL in a "
            f"fourth, leases of {LEASE_SECONDS} s, an artifact store of {STORE_MEGABYTES} MB, all on a Docker engine "
            "of the run's own, without live-restore."
        ),
        f"Made by `make chaos CHAOS='{command}'`.",
        _paragraph(f"**Violated: {'; '.join(violated)}.**" if violated else "Every check held."),
        _table(
            ["check", "", "found"],
            [[name, "held" if held else "**violated**", found] for name, held, found in checks],
        ),
        _paragraph(
            f"The study of {len(run.slots)} configurations took {run.end / 60:.1f} minutes and {len(run.trials)} "
            f"trials; faults were under way until minute {run.last_fault / 60:.1f}. "
            f"{len(resumed(run.trials))} of them were finished by a trial that went on with another one's. "
            f"The containers were at work for {run.observer.capacity(run.end):.0%} of their time (between two signs "
            f"of work, a lease or a report, no more than {AT_WORK_SECONDS} s apart); at the end they were "
            f"{', '.join(run.containers[:-1])}, the storage {run.containers[-1]}."
        ),
        "## Faults",
        _paragraph(
            "Recovered: from the fault's end until each of the three containers had reported a rung, other faults "
            "in the meantime included. What `docker kill` ended is started by the fault's end, as by whoever "
            "killed it; after every other fault nobody helps."
        ),
        _table(["fault", "times", "lasted, median", "recovered, median", "recovered, longest"], _faults(run)),
        _paragraph(
            "The clock that is stepped is the storage's, by 1.5 to 3 leases either way: leases are measured by it "
            "and by nothing else. A function in front of PostgreSQL's own steps it inside the database; the clock "
            "of the machine, which all containers share, is left alone."
        ),
        "## Why trials ended before their configurations did",
        _table(["reason", "trials"], [[reason, f"{times}"] for reason, times in failed.most_common()]),
    ]
    return "\n\n".join(parts) + "\n"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _table(titles: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [titles, ["---"] * len(titles), *rows])


def _faults(run: Run) -> list[list[str]]:
    rows = [
        _row(
            kind.name,
            [fault for fault in run.faults if fault.kind is kind],
            run.missed.count(kind),
            run.recoveries(kind),
        )
        for kind in KINDS
    ]
    return [*rows, _row("all", run.faults, len(run.missed), run.recoveries())]


def _row(name: str, faults: list[Fault], missed: int, recoveries: list[float | None]) -> list[str]:
    known = [seconds for seconds in recoveries if seconds is not None]
    never = len(recoveries) - len(known)
    lasted = [fault.undone - fault.begun for fault in faults if fault.undone is not None]
    return [
        name,
        f"{len(faults)}" + (f" ({missed} more found nothing to hit)" if missed else ""),
        f"{statistics.median(lasted):.0f} s" if lasted else "-",
        f"{statistics.median(known):.0f} s" if known else "-",
        (f"{max(known):.0f} s" if known else "-") + (f", {never} times never" if never else ""),
    ]


def _commit() -> str:
    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
