"""How many CPU cores this process may use, by whatever gave them to it: the kernel, a container, Slurm.

GPUs are those that CUDA_VISIBLE_DEVICES names (`service.machine.places`), which Slurm and Ray set for each task.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
"""The first is there where a job asks for CPUs a task, the second always: what the job has on this machine."""


def cores(environment: Mapping[str, str] = os.environ) -> int:
    """CPU cores that this process may use, at least 1: the least of its affinity, its quotas and its Slurm job's."""
    found = [float(len(os.sched_getaffinity(0))), *_quotas()]
    if "SLURM_JOB_ID" in environment:
        asked = (environment.get(name, "") for name in _SLURM)
        found += [float(number) for number in asked if number.isdecimal()][:1]
    return max(1, int(min(found)))


def threads_of_one(given: int | None, environment: Mapping[str, str] = os.environ) -> int | None:
    """The CPU threads of a process that has the allocation to itself.

    None leaves them to OMP_NUM_THREADS, which says it as clearly as `given` does.
    """
    return given or (None if environment.get("OMP_NUM_THREADS") else cores(environment))


def _quotas() -> Iterator[float]:
    """CPUs that the groups of this process may use, by cgroup v2 and v1: its own and those above it.

    A container may see its own group as the root of all, or a path that is not there.
    """
    for line in _lines(_OWN_CGROUPS):
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            root = _CGROUPS / "cpu" if controllers else _CGROUPS
            group = root / path.lstrip("/")
            while group.is_relative_to(root):
                yield from _quota(group)
                group = group.parent


def _quota(group: Path) -> Iterator[float]:
    with contextlib.suppress(ValueError):
        for line in _lines(group / "cpu.max"):
            quota, period = line.split()
            if quota != "max":
                yield int(quota) / int(period)
        for quota in _lines(group / "cpu.cfs_quota_us"):
            for period in _lines(group / "cpu.cfs_period_us"):
                if int(quota) > 0:
                    yield int(quota) / int(period)


def _lines(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return file.read_text().splitlines()
    return []
