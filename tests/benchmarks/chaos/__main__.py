"""Sixty faults in fifteen minutes for three worker containers, and what is left of their study.

    make chaos                                          CHAOS='--minutes 15 --faults 60 --seed 1'

Needs root, an engine to build the image with, and nothing on it: the run has an engine of its own. Writes
tests/benchmarks/results/chaos.md; the exit status is 1 when a check is violated.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.chaos import page
from tests.benchmarks.chaos.driver import Driver
from tests.benchmarks.chaos.engine import Engine, run_in_namespaces
from tests.benchmarks.chaos.faults import plan
from tests.benchmarks.chaos.ledger import SAMPLE, Run, check, curves, resumed
from tests.benchmarks.chaos.observer import Observer
from tests.benchmarks.chaos.stack import Stack, new_stack
from tests.integration.conftest import BASE_IMAGES, ROOT

VERSION = "chaos"
RESULT = Path(__file__).parents[1] / "results" / "chaos.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15, help="over which the faults are spread")
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--trials", type=int, default=100, help="of the study")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.folder is not None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return run(arguments)
    image = {"HPTUNE_IMAGE": "hptune", "HPTUNE_VERSION": VERSION}
    environment = {**os.environ, **image, "COMPOSE_ENV_FILES": "/dev/null"}
    build = ["docker", "compose", "--progress", "plain", "build", "workers"]
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: the image cannot be built:\n{done.stdout}{done.stderr}")
    return run_in_namespaces(sys.executable, "-m", "tests.benchmarks.chaos", *sys.argv[1:])


def run(arguments: argparse.Namespace) -> int:
    """Inside the namespaces: the disturbed study, a sample of it undisturbed, the page."""
    engine = Engine(arguments.folder)
    generator = random.Random(arguments.seed)
    rates = [float(f"{1e-3 * 1.02**index:.6g}") for index in range(arguments.trials)]
    try:
        engine.start()
        engine.load(BASE_IMAGES[1], f"hptune-worker:{VERSION}")
        os.environ["DOCKER_HOST"] = engine.address
        with new_stack(engine, arguments.folder / "disturbed", version=VERSION) as stack:
            found = disturb(stack, rates, generator, arguments)
        again = sorted(resumed(found.trials))
        sample = sorted(generator.sample(again, min(SAMPLE, len(again))))
        if sample:
            with new_stack(engine, arguments.folder / "undisturbed", version=VERSION) as stack:
                found.undisturbed = undisturbed(stack, sample)
    except KeyboardInterrupt:
        print("stopped; nothing is written", file=sys.stderr)
        return 130
    checks = check(found)
    arguments.out.write_text(page.render(found, checks, arguments))
    print(arguments.out.read_text())
    return 0 if all(held for _, held, _ in checks) else 1


def disturb(stack: Stack, rates: list[float], generator: random.Random, arguments: argparse.Namespace) -> Run:
    """The study from its start to its end, or to where no worker is left."""
    stack.create(rates)
    stack.start_workers()
    with Observer(stack) as observer:
        wait(lambda: observer.all_train(0.0), 120)
        driver = Driver(
            stack, observer, plan(arguments.faults, generator), generator, seconds=60 * arguments.minutes
        )
        driver.run()
        last = observer.time()
        wait(lambda: observer.over, 60 * max(5, arguments.minutes))
        end = observer.ended or observer.time()
        states = [container.attrs["State"] for container in [*stack.workers(), stack.storage()]]
        if not states[-1]["Running"]:  # lost, which is a violation; what it has is looked at all the same
            stack.storage().start()
            stack.wait_for_storage()
        return Run(
            trials=stack.project.trials(),
            slots=[slot.state for slot in stack.project.slots()],
            faults=driver.dealt,
            missed=driver.missed,
            asked=arguments.faults,
            observer=observer,
            last_fault=last,
            end=end,
            containers=[f"{state['Status']} ({state['ExitCode']})" for state in states],
        )


def undisturbed(stack: Stack, rates: list[float]) -> dict[float, list[float]]:
    """The losses at every rung of an undisturbed run, by learning rate."""
    stack.create(rates)
    stack.start_workers()
    with Observer(stack) as observer:
        wait(lambda: observer.over, 120 * len(rates))
    return curves(stack.project.trials())


def wait(condition, seconds: float) -> None:
    """Until the condition holds, or the time is over."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
