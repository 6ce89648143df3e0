"""What Ray runs in a place: one worker process, watched. It is sent to the nodes as it stands.

Ray restarts tasks and starts some twice; the study's leases keep the number of its trials exact all the same.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

STOP_SECONDS = 50.0
"""How long a worker may take to save its state before it is killed."""
POLL_SECONDS = 0.5
"""Between two looks: the KeyboardInterrupt that `ray.cancel` raises wakes nothing that blocks."""
CRASHES = 5
"""Of a worker, one after the other, after which its place is given up; a second, two, four, ... lie between them."""
GIVEN_UP = "worker crashed {crashes} times one after the other, with status {status}"


def work(arguments: list[str], environment: Mapping[str, str], root: str) -> str | None:
    """Run a worker until the study's trials are used up.

    Args:
        arguments: of Python, behind the options that find the project.
        environment: variables to set for it.
        root: the project's folder, for where the task's own folder is not one.

    Returns:
        What only the user can mend; None when the trials are used up.

    Raises:
        ChildProcessError: the worker was killed, or its storage stayed away: to be tried again, anywhere.
        KeyboardInterrupt: the task was cancelled; the worker has saved and handed back its trial.
    """
    here = next(
        (folder for folder in (os.getcwd(), root) if (Path(folder) / "service/__main__.py").exists()), None
    )
    if here is None:
        return f"{root} is not on node {os.uname().nodename}; share the folder, or: ray job submit --working-dir ."
    for crash in range(CRASHES):
        status, said = _run(
            [sys.executable, "-P", *arguments, "--parent", str(os.getpid())], environment, here
        )
        if status == 0:
            return None
        if status == 2:
            return said
        if status < 0 or status == os.EX_TEMPFAIL:
            # a task that returned would count as one that has succeeded (ray-project/ray#38439)
            raise ChildProcessError(f"the worker ended with status {status}")
        time.sleep(2.0**crash)
    return GIVEN_UP.format(crashes=CRASHES, status=status) + f"; {said}"


def _run(command: list[str], environment: Mapping[str, str], root: str) -> tuple[int, str]:
    """The status of the worker, and the last line that it wrote to standard error."""
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join([root, *given])},
            stdin=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            _stop(process)
            raise
        file.seek(0)
        lines = file.read().strip().splitlines()
    return process.returncode, lines[-1] if lines else ""


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    while process.poll() is None:
        if time.monotonic() > end:
            process.kill()
        time.sleep(POLL_SECONDS)
