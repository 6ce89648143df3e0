"""What several training processes on one machine give together."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.speed.shapes import Shape
from tests.benchmarks.speed.turns import ContenderEndedError, Machine, Process

GPU_COUNTS = (1, 2, 4, 8)
MPS = "nvidia-cuda-mps-control"


def on_cpu(shape: Shape, machine: Machine, *, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """One process with all cores, and one for every core, in turns of so many seconds; tokens a second of each turn."""
    cores = len(os.sched_getaffinity(0))
    groups = [{"processes": 1, "threads": cores}, {"processes": cores, "threads": 1}]
    with ExitStack() as stack:
        running = [stack.enter_context(_started(shape, machine, **group)) for group in groups]
        taken = [[_throughput(processes, shape, seconds) for processes in running] for _ in range(rounds)]
    return [
        group | {"tokens_per_second": list(turns)}
        for group, turns in zip(groups, zip(*taken, strict=True), strict=True)
    ]


def on_gpu(
    shape: Shape, machine: Machine, *, rounds: int, seconds: float, mps: Sequence[bool] = (False, True)
) -> list[dict[str, Any]]:
    """1, 2, 4 and 8 processes that share a GPU, without MPS and with it; tokens a second of each turn.

    The counts take turns among processes that are all alive, as many as the GPU has memory for; those whose turn it is
    not keep their memory and do nothing.
    """
    found: list[dict[str, Any]] = []
    for with_mps in mps:
        groups = [{"processes": count, "threads": 1, "mps": with_mps} for count in GPU_COUNTS]
        found += groups
        for together in reversed(GPU_COUNTS):
            fitting = [group for group in groups if group["processes"] <= together]
            try:
                with ExitStack() as stack:
                    environment = stack.enter_context(_mps(machine.folder)) if with_mps else {}
                    processes = stack.enter_context(
                        _started(shape, machine, processes=together, threads=1, environment=environment)
                    )
                    taken = [
                        [_throughput(processes[: group["processes"]], shape, seconds) for group in fitting]
                        for _ in range(rounds)
                    ]
            except (ContenderEndedError, OSError, subprocess.CalledProcessError) as error:
                missing = "not installed" if with_mps and not shutil.which(MPS) else str(error)
                fitting[-1]["missing"] = missing
                continue
            for group, turns in zip(fitting, zip(*taken, strict=True), strict=True):
                group["tokens_per_second"] = list(turns)
            break
    return found


@contextlib.contextmanager
def _started(shape, machine, *, processes, threads, environment=()) -> Iterator[list[Process]]:
    """So many training processes of ours that have taken their first steps."""
    machine = replace(machine, threads=threads)
    with ExitStack() as stack:
        running = [
            stack.enter_context(Process("ours", shape, "adamw", machine, environment=environment))
            for _ in range(processes)
        ]
        for process in running:
            process.wait_for_first_step()
        yield running


def _throughput(processes: list[Process], shape: Shape, seconds: float) -> float:
    """Tokens a second of all of them, at work at the same time."""
    for process in processes:
        process.send("steps_for", seconds=seconds)
    answers = [process.answer() for process in processes]
    return sum(shape.tokens_per_step * answer["number"] / answer["seconds"] for answer in answers)


@contextlib.contextmanager
def _mps(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of clients of a Multi-Process Service of our own; no setting of the GPU is changed."""
    places = {
        "CUDA_MPS_PIPE_DIRECTORY": str(folder / "mps"),
        "CUDA_MPS_LOG_DIRECTORY": str(folder / "mps-log"),
    }
    environment = {**os.environ, **places}
    for place in places.values():
        Path(place).mkdir(exist_ok=True)
    subprocess.run([MPS, "-d"], env=environment, check=True)
    try:
        yield places
    finally:
        subprocess.run([MPS], input="quit\n", text=True, env=environment, check=False)
