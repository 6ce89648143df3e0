"""Kills worker processes at random instants, on and on, and lets a last one finish the study.

A script, so that a process which has imported everything once can fork one worker after the other.
"""

import json
import os
import random
import signal
import sys
import time

import service.search.thaw  # noqa: F401 - here and not in every child
from service.settings import Settings
from service.storage.opened_study import OpenedStudy, open_study
from tests.fast_run import fork_worker, train_fast


def share_done(opened: OpenedStudy) -> float:
    """Of a study's trials those that are closed; of one whose trials pause the tokens that are claimed."""
    if opened.budget:
        seen = opened.budget.read()
        return (seen.granted - seen.left) / seen.granted
    counts = opened.slots.counts()
    return counts["closed"] / sum(counts.values())


def main(study: str, kills: int, lanes: int, longest: float) -> None:
    train_fast()
    settings = Settings.from_environment()
    generator = random.Random(0)
    running: list[tuple[float, int, str]] = []
    lifetime = longest / 4
    killed = 0
    while killed < kills:
        while len(running) < lanes:
            owner = f"{killed}-{len(running)}-{os.urandom(4).hex()}"
            child = fork_worker(settings, study, owner)
            running.append((time.monotonic() + generator.uniform(0, lifetime), child, owner))
        due, child, owner = running.pop(running.index(min(running)))
        time.sleep(max(0.0, due - time.monotonic()))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            if os.waitstatus_to_exitcode(status):
                sys.exit(f"a worker failed: {status}")
            break  # the study's trials are used up
        killed += 1
        opened = open_study(settings, study)
        if generator.random() < 0.5:  # as a supervisor does; the others' leases run out
            opened.slots.release(owner, lost="its worker was killed")
        ahead = share_done(opened) * kills > killed
        opened.close()
        # short at first: on a fast machine the trials must not be used up before the kills
        lifetime = min(longest, lifetime * (0.8 if ahead else 1.1))
    for _, child, _ in running:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    last = fork_worker(settings, study, "last")
    _, status = os.waitpid(last, 0)
    print(json.dumps({"killed": killed, "status": os.waitstatus_to_exitcode(status)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
