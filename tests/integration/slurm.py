"""A Slurm cluster of this test's own: a controller and two nodes on one machine, all on the loopback address."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import free_port
from tests.integration.processes import descendants, kill, wait_until, workers_below

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
NODES = ("one", "two", "three")


def missing() -> str | None:
    """Why there can be no cluster here."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    lacking = [name for name in PROGRAMS if shutil.which(name, path="/usr/sbin:/usr/bin") is None]
    return f"{', '.join(lacking)} not installed (Debian: apt install slurm-wlm munge)" if lacking else None


@dataclass
class Cluster:
    """`low` is the partition whose jobs are queued again where those of `high` need their node; `short` has the third
    node, with a GPU of which Slurm knows no more than that it is there.
    """

    folder: Path
    daemons: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self) -> None:
        host, ports = socket.gethostname(), [free_port() for _ in (*NODES, "slurmctld")]
        nodes = "".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1"
            f"{' Gres=gpu:1' if name == 'three' else ''}\n"
            for name, port in zip(NODES, ports[1:], strict=True)
        )
        (self.folder / "gres.conf").write_text("NodeName=three Name=gpu File=/dev/null\n")
        for name in ("state", "munge", *NODES):
            (self.folder / name).mkdir(mode=0o755)
        self.conf.write_text(
            f"ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={ports[0]}\n"
            # after which a job that was queued again may start; two minutes unless told
            f"AuthInfo=socket={self.folder}/munge/socket,cred_expire=15\nSlurmUser=root\nSlurmdUser=root\n"
            f"StateSaveLocation={self.folder}/state\nSlurmdSpoolDir={self.folder}/%n\n"
            f"SlurmctldPidFile={self.folder}/ctld.pid\nSlurmdPidFile={self.folder}/%n/pid\n"
            f"SlurmctldLogFile={self.folder}/ctld.log\nSlurmdLogFile={self.folder}/%n.log\n"
            "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nMpiDefault=none\n"
            "SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\n"
            "AccountingStorageType=accounting_storage/none\nJobCompType=jobcomp/none\n"
            "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\n"
            "GresTypes=gpu\nSlurmdTimeout=10\nKillWait=30\nReturnToService=2\nSchedulerParameters=sched_interval=2,sched_min_interval=1\n"
            f"{nodes}"
            "PartitionName=low Nodes=one,two Default=YES PriorityTier=1 GraceTime=15\n"
            "PartitionName=high Nodes=one,two PriorityTier=9 PreemptMode=OFF\n"
            "PartitionName=short Nodes=three\n"
        )
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        munge = self.folder / "munge"
        options = [
            f"--{name}={munge / name}" for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")
        ]
        options = [option.replace("munge/key-file", "munge/key") for option in options]
        self._start("munged", "munged", "--foreground", "--force", *options)
        wait_until("munged", (munge / "socket").exists)
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        for name in NODES:
            self.add(name)
        wait_until("the nodes", lambda: self.states() == ["idle"] * len(NODES))

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    def add(self, node: str) -> None:
        """Start the node."""
        self._start(node, "slurmd", "-D", "-N", node, "-f", str(self.conf))

    def lose(self, node: str) -> None:
        """Kill it with all that runs on it, as a power cut does."""
        for pid in [self.daemons[node].pid, *self._steps(node)]:
            kill((pid, *descendants(pid)))
        self.daemons.pop(node).wait()

    def workers(self, node: str) -> list[int]:
        """Worker processes of the project on the node."""
        return workers_below(self._steps(node))

    def _steps(self, node: str) -> Iterator[int]:
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes() if folder.name.isdigit() else b""
                environment = (folder / "environ").read_bytes() if b"slurmstepd" in command else b""
                if str(self.conf).encode() in environment and self._is_on(int(folder.name), node):
                    yield int(folder.name)

    def _is_on(self, step: int, node: str) -> bool:
        name = f"SLURMD_NODENAME={node}".encode()
        for pid in descendants(step):
            with contextlib.suppress(OSError):
                if name in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    return True
        return False

    def run(self, *command: str, cwd: Path | None = None, **variables: str) -> str:
        """What a command of Slurm's says."""
        done = subprocess.run(
            command,
            cwd=cwd,
            env=self._environment(variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    def states(self) -> list[str]:
        with contextlib.suppress(AssertionError):  # the controller starts
            return self.run("sinfo", "-hN", "-p", "low,short", "-o", "%T").split()
        return []

    def jobs(self) -> dict[str, dict[str, str]]:
        """The jobs that there are, by their ids."""
        lines = self.run("scontrol", "show", "job", "--oneliner").splitlines()
        found = [
            dict(word.split("=", 1) for word in line.split() if "=" in word)
            for line in lines
            if "JobId=" in line
        ]
        return {job["JobId"]: job for job in found}

    def stop(self) -> None:
        for name in (*NODES, "slurmctld", "munged"):
            if name in NODES:
                for step in self._steps(name):
                    kill((step, *descendants(step)))
            if name in self.daemons:
                self.daemons[name].kill()
                self.daemons[name].wait()

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        path = f"/usr/sbin:/usr/bin:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "SLURM_CONF": str(self.conf), **variables}

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                command, env=self._environment({}), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
