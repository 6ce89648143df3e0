"""What this machine, or this container, has for workers: GPUs and cores, and how they are shared out."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from service.machine.allocation import cores
from service.machine.python import python
from service.settings import Settings

CORES_PER_WORKER = 2
"""Where there is no GPU. One worker for every core would train 5 to 20 % more tokens a second (2.56M to 40M,
two cores, `tests/benchmarks/results/training.md`), in twice the memory, each trial taking nearly twice as long."""
SPIN_COUNT = 1000
"""Turns for which an OpenMP thread waits awake for the others, in place of millions. Where other programs hold the
cores, threads that spin keep each other from working: on two cores at a load of 11 to 15, `quickstart` trained 960
tokens/s on two threads as it was, 14,000 with this, and 11,000 on one thread, so that fewer threads would gain nothing
beside it (medians of five runs in turn). On idle cores it costs 3 %."""


@dataclass(frozen=True)
class Place:
    """What one worker process works on."""

    gpu: str | None
    """Its one entry of CUDA_VISIBLE_DEVICES; None leaves the choice to HPTUNE_DEVICE."""
    threads: int
    sharing: int = 1
    """Workers on its GPU, itself included."""


def places(settings: Settings, *, workers: int | None = None, threads: int | None = None) -> list[Place]:
    """A place for every worker: `workers` of them, or as many as suit the machine, each with `threads` or its share.

    Unless told otherwise that is `HPTUNE_WORKERS_PER_GPU` on every GPU seen or on the one that HPTUNE_DEVICE names, or
    else one for every two cores, or for as many as a worker is given threads. On a GPU one is the default: two to eight
    on an H200 trained 0.88 to 0.93 times the tokens of one (2.56M to 27.2M, `tests/benchmarks/results/training.md`).
    """
    gpus: list[str | None] = [*visible_gpus(settings.device)]
    if settings.device.startswith("cuda:"):
        gpus = [None]
    count = workers or (
        len(gpus) * settings.workers_per_gpu if gpus else max(1, cores() // (threads or CORES_PER_WORKER))
    )
    threads = threads or max(1, cores() // count)
    if not gpus:
        return [Place(None, threads)] * count
    sharing = -(-count // len(gpus))
    return [Place(gpus[index % len(gpus)], threads, sharing) for index in range(count)]


def visible_gpus(device: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that processes started here may be pinned to, as entries of CUDA_VISIBLE_DEVICES.

    Args:
        device: as in HPTUNE_DEVICE; none are shared out where it names the CPU or one GPU.
        environment: has CUDA_VISIBLE_DEVICES, or not.
    """
    if device not in ("auto", "cuda"):
        return []
    # without a driver's device nodes there is nothing to ask, which would take seconds
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return []
    return _entries(environment.get("CUDA_VISIBLE_DEVICES", ""), _gpus_found())


@cache
def _gpus_found() -> int:
    # in a process of its own: a supervisor keeps no CUDA context and no torch in memory
    count = "import torch; print(torch.cuda.device_count())"
    asked = subprocess.run(**python("-c", count), capture_output=True, text=True, check=False)
    return int(asked.stdout) if asked.stdout.strip().isdigit() else 0


def _entries(given: str, found: int) -> list[str]:
    """One for each GPU, where CUDA_VISIBLE_DEVICES is `given` and torch counts `found`."""
    named = [name for name in given.split(",") if name.strip()]
    if found and named and all(name.strip().startswith("MIG-") for name in named):
        return named  # of these slices a process sees one, however many it may be pinned to
    return (named or [str(index) for index in range(found)])[:found]


def device_type(settings: Settings) -> str:
    """What workers that are started here train on: `cpu` or `cuda`."""
    gpu = settings.device.startswith("cuda") or visible_gpus(settings.device)
    return "cuda" if gpu else "cpu"


def share_cores() -> None:
    """Have this process and those that it starts give way to others; to be called before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
