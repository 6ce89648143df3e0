"""A Ray cluster of this test's own: nodes on one machine, started and killed like separate ones."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import free_port
from tests.integration.engine_runs import HELD
from tests.integration.processes import PYTHON, descendants, kill, wait_until, workers_below


@dataclass
class RayCluster:
    """Nodes of one CPU each unless told otherwise, and one token for all."""

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
            "PYTHONPATH": str(HELD),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            # a node that is gone answers no connection; one that is slow has as long as ever
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_worker_niceness": "0",  # 15 unless told: beside others' work a start takes minutes
            "OMP_NUM_THREADS": "1",
        }

    def start_head(self, *options: str, jobs: bool = False) -> None:
        """Start the first node; one that takes jobs needs a dashboard, which costs seconds."""
        self.port, self.dashboard = free_port(), free_port()
        self._start(
            "head",
            *("--head", f"--port={self.port}", f"--temp-dir={self.folder}/ray"),
            *(f"--dashboard-port={self.dashboard}", "--dashboard-host=127.0.0.1"),
            *(f"--include-dashboard={jobs}", *options),
        )

    def add(self, name: str) -> None:
        """Start another node."""
        self._start(name, f"--address=127.0.0.1:{self.port}", "--num-cpus=1")

    def kill(self, name: str) -> None:
        """The node with all that runs on it, at once."""
        node = self.nodes.pop(name)
        kill((node.pid, *descendants(node.pid)))
        node.wait()

    def workers(self, name: str) -> list[int]:
        """Worker processes of the project on the node."""
        return workers_below([self.nodes[name].pid])

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
                            *(PYTHON.parent / "ray", "start", "--block"),
                            *("--object-store-memory=100000000", "--node-ip-address=127.0.0.1", *options),
                        ],
                        env=self.environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                    )
            return "Ray runtime started" in log.read_text()

        wait_until(f"node {name}", is_up)
