"""What a trial ran on: enough to repeat it, or to know why it cannot be repeated to the bit."""

import os
import platform
import subprocess
import time
import tomllib
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from model.shipped import INSTALLED
from service.settings import ROOT

_PACKAGES = ("torch", "optuna", "tokenizers", "numpy")


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


def shown() -> str:
    """Versions of this project and of what it stands on, a line each, for people who report a fault."""
    described = ROOT / "pyproject.toml"
    if INSTALLED:
        own = f" {version('hptune')}"
    elif described.exists():
        own = f" {tomllib.loads(described.read_text(encoding='utf-8'))['project']['version']}"
    else:  # an image has only what it runs
        own = ""
    lines = [f"hptune{own}, commit {commit() or 'unknown'}", f"python {platform.python_version()}"]
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):  # the dashboard's image has no torch
            lines.append(f"{name} {version(name)}")
    return "\n".join(lines)


def collect(*, device: str, **of_run: Any) -> dict[str, Any]:
    """Commit, versions and device of this process, and what a run says of its own origin."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "machine": platform.machine(),
        "utc_offset_seconds": time.localtime().tm_gmtoff,
        "device": device,
        **of_run,
    }
