import pytest

from service.machine import allocation


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Four cores by affinity, and a folder in place of the kernel's of control groups."""
    monkeypatch.setattr(allocation.os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(allocation, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(allocation, "_OWN_CGROUPS", tmp_path / "own")

    def set_up(own: str, **files: str):
        (tmp_path / "own").write_text(own)
        for path, content in files.items():
            file = tmp_path / "cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content + "\n")

    return set_up


QUOTAS = [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("nonsense", 4)]


@pytest.mark.parametrize(("quota", "expected"), QUOTAS)
@pytest.mark.parametrize("folder", ["", "system.slice/", "system.slice/job.scope/"])
def test_a_quota_of_cgroup_v2_counts_from_the_own_group_up(machine, quota, expected, folder):
    machine("0::/system.slice/job.scope\n", **{f"{folder}cpu.max": quota})
    assert allocation.cores({}) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 4), ("200000", 2), ("50000", 1), ("900000", 4)])
@pytest.mark.parametrize("folder", ["cpu/", "cpu/slurm/", "cpu/slurm/job_7/"])
def test_so_does_one_of_cgroup_v1(machine, quota, expected, folder):
    files = {f"{folder}cpu.cfs_quota_us": quota, f"{folder}cpu.cfs_period_us": "100000"}
    machine("5:memory:/other\n4:cpu,cpuacct:/slurm/job_7\n0::/\n", **files)
    assert allocation.cores({}) == expected


def test_the_tightest_group_counts(machine):
    machine(
        "0::/a/b\n", **{"cpu.max": "max 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "200000 100000"}
    )
    assert allocation.cores({}) == 2


def test_without_control_groups_the_affinity_counts(machine):
    assert allocation.cores({}) == 4


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2", "SLURM_CPUS_ON_NODE": "3"}, 2),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "3"}, 3),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "64"}, 4),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "two"}, 4),
        ({"SLURM_CPUS_PER_TASK": "1"}, 4),  # a setting for sbatch, outside of any job
    ],
)
def test_what_slurm_has_given_counts(machine, environment, expected):
    assert allocation.cores(environment) == expected


def test_one_process_takes_what_is_given_then_openmps_then_the_allocation(machine):
    assert allocation.threads_of_one(3, {"OMP_NUM_THREADS": "2"}) == 3
    assert allocation.threads_of_one(None, {"OMP_NUM_THREADS": "2"}) is None
    assert allocation.threads_of_one(None, {}) == 4
