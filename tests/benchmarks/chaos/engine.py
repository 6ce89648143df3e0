"""A Docker engine of the run's own, in namespaces of its own.

Processes, mounts and network of it and of its containers are seen by nobody else, so that it can be killed without
harm, and all of them end with the run's first process, however that ends.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import docker
import requests

NAMESPACES = ("unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
CGROUPS = Path("/sys/fs/cgroup")
PROGRAMS = ("docker", "dockerd", "docker-init", "unshare", "ip")
START_SECONDS = 120
"""For the engine to answer, or to end, at most."""


def run_in_namespaces(*command: str) -> int:
    """The exit status of a command, which is given a folder; nothing of either is left afterwards."""
    if os.geteuid() != 0:
        raise SystemExit("error: only root can have an engine of its own")
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if lacking:
        raise SystemExit(f"error: not installed: {', '.join(lacking)}")
    folder = Path(tempfile.mkdtemp(prefix="hptune-chaos-", dir="/var/tmp"))
    # docker-init sees to the orphans that shims of containers are
    child = subprocess.Popen([*NAMESPACES, "docker-init", "--", *command, "--folder", str(folder)])
    # Ctrl-C reaches the child by itself; it says how far it got
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.kill())
    try:
        return child.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for group in sorted(CGROUPS.glob(f"**/{folder.name}/**/"), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()


class Engine:
    """A daemon whose data is in `folder`, with no more than the images it is given.

    Live-restore is off, as by default: the containers end with the daemon.
    """

    def __init__(self, folder: Path) -> None:
        self.address = f"unix://{folder}/docker.sock"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.client = docker.DockerClient(base_url=self.address, version="1.41")

    def start(self) -> None:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        command = ["dockerd", "--data-root", self._folder / "data", "--exec-root", self._folder / "run"]
        command += ["--host", self.address, "--pidfile", self._folder / "pid"]
        command += ["--cgroup-parent", f"/{self._folder.name}"]
        with (self._folder / "dockerd.log").open("a") as log:
            # in a session of its own, which Ctrl-C does not reach
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                lines = (self._folder / "dockerd.log").read_text().splitlines()
                raise SystemExit("\n".join(["error: the engine does not start", *lines[-5:]]))
            time.sleep(0.2)

    def _answers(self) -> bool:
        # the connection is refused, or cut by the daemon that ended
        with contextlib.suppress(docker.errors.APIError, requests.exceptions.ConnectionError):
            return self.client.ping()
        return False

    def stop(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(START_SECONDS)

    def load(self, *images: str) -> None:
        """Copy images from the engine that the environment names."""
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
            load = ["docker", "--host", self.address, "load", "--quiet"]
            subprocess.run(load, stdin=save.stdout, stdout=subprocess.DEVNULL, check=True)
        if save.returncode:
            raise SystemExit("error: the images cannot be copied")
