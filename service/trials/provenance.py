"""What a trial ran on: enough to repeat it, or to know why it cannot be repeated to the bit."""

import os
import platform
import subprocess
import time
from functools import cache
from importlib.metadata import version
from typing import Any

from model.shipped import INSTALLED
from service.settings import ROOT


@cache
def commit() -> str | None:
    """The project's commit, with `+changes` where the files differ from it; None where neither is known.

    An image has no checkout: what it was built from is in `HPTUNE_COMMIT`.
    """
    if built_from := os.environ.get("HPTUNE_COMMIT"):
        return built_from
    if INSTALLED:  # what is around it is somebody else's checkout
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+changes" if changes else head


def collect(*, device: str, **of_run: Any) -> dict[str, Any]:
    """Commit, versions and device of this process, and what a run says of its own origin."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "optuna", "tokenizers", "numpy")},
        "machine": platform.machine(),
        "utc_offset_seconds": time.localtime().tm_gmtoff,
        "device": device,
        **of_run,
    }
