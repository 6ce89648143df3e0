"""A Ray cluster of this test's own: nodes on one machine, started and killed like separate ones."""

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import free_port
from tests.integration.processes import PYTHON, descendants, wait_until


@dataclass
class RayCluster:
    """Nodes of one CPU each, and one token for all."""

    folder: Path
    nodes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)
    port: int = 0
    dashboard: int = 0

    @property
    def environment(self) -> dict[str, str]:
        token = self.folder / "token"
        if not token.exists():
            token.write_text(os.urandom(32).hex())
            token.chmod(0o600)
        return {
            **os.environ,
            "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }

    def start_head(self) -> None:
        self.port, self.dashboard = free_port(), free_port()
        self._start(
            "head",
            *("--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}"),
            *("--dashboard-host=127.0.0.1", f"--temp-dir={self.folder}/ray"),
        )
        wait_until("the head", lambda: self.ray("status").returncode == 0)

    def add(self, name: str) -> None:
        """Start another node."""
        self._start(name, f"--address=127.0.0.1:{self.port}")

    def kill(self, name: str) -> None:
        """The node with all that runs on it, at once."""
        node = self.nodes.pop(name)
        for pid in (node.pid, *descendants(node.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def workers(self, name: str) -> list[int]:
        """Worker processes of the project on the node."""
        found = []
        for pid in descendants(self.nodes[name].pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"service" in command and b"work" in command:
                    found.append(pid)
        return found

    def ray(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {**self.environment, "RAY_ADDRESS": f"127.0.0.1:{self.port}"}
        return subprocess.run(
            [PYTHON.parent / "ray", *arguments], env=environment, capture_output=True, text=True, timeout=120
        )

    def stop(self) -> None:
        for name in list(self.nodes):
            self.kill(name)

    def _start(self, name: str, *options: str) -> None:
        """Start a node; again where it does not come up, as Ray gives itself half a minute for that."""
        log = self.folder / f"{name}.out"

        def is_up() -> bool:
            if name not in self.nodes or self.nodes[name].poll() is not None:
                log.unlink(missing_ok=True)
                with log.open("ab") as output:
                    self.nodes[name] = subprocess.Popen(
                        [
                            *(PYTHON.parent / "ray", "start", "--block", "--num-cpus=1"),
                            *("--object-store-memory=100000000", "--node-ip-address=127.0.0.1", *options),
                        ],
                        env=self.environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                    )
            return "Ray runtime started" in log.read_text()

        wait_until(f"node {name}", is_up)
