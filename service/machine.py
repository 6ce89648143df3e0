"""What this machine, or this container, has for workers: GPUs and cores, and how they are shared out."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.settings import Settings

CORES_PER_WORKER = 2
"""Where there is no GPU. One worker for every core would train 5 to 20 % more tokens a second (2.56M to 40M,
two cores, `tests/benchmarks/results/training.md`), in twice the memory, each trial taking nearly twice as long."""
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Place:
    """What one worker process works on."""

    gpu: str | None
    """Its one entry of CUDA_VISIBLE_DEVICES; None leaves the choice to HPTUNE_DEVICE."""
    threads: int


def places(settings: Settings, *, workers: int | None = None) -> list[Place]:
    """A place for every worker: `workers` of them, or as many as suit the machine.

    Unless told otherwise that is `HPTUNE_WORKERS_PER_GPU` on every GPU seen, or else one for every two cores.
    """
    gpus = visible_gpus(settings.device)
    count = workers or (len(gpus) * settings.workers_per_gpu if gpus else max(1, cores() // CORES_PER_WORKER))
    threads = max(1, cores() // count)
    return [Place(gpus[index % len(gpus)] if gpus else None, threads) for index in range(count)]


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
    # in a process of its own: a supervisor keeps no CUDA context and no torch in memory
    count = "import torch; print(torch.cuda.device_count())"
    asked = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=False)
    found = int(asked.stdout) if asked.stdout.strip().isdigit() else 0
    named = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(index) for index in range(found)])[:found]


def cores() -> int:
    """CPU cores that this process may use, a container's quota taken into account."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(_CGROUPS)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _quota(cgroups: Path) -> float | None:
    """CPUs that the container may use, by cgroup v2 or v1; None: it has no quota."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (cgroups / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((cgroups / "cpu" / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        return None if int(quota) < 0 else int(quota) / int(period)
    return None
