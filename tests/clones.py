"""A clone of the project in a folder of its own, and calls of its scripts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

LOCKS = ("requirements.lock", "requirements-dev.lock")


def checkout(folder: Path) -> Path:
    """What the scripts need, in `folder`; the environment is this one."""
    for name in ("model", "service", "studies/quickstart", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("hptune.sh", "evaluate.py", "train_config.yaml", *LOCKS):
        shutil.copy(ROOT / name, folder)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    locks = b"".join((ROOT / name).read_bytes() for name in LOCKS)
    stamp = subprocess.run(["cksum"], input=locks, capture_output=True, check=True).stdout
    (folder / ".venv" / ".installed").write_bytes(stamp)
    return folder


def call(*words: object, cwd: Path, before: tuple[str, ...] = (), timeout: float = 240, **environment: str):
    """Run a script as a person would, without the settings of the tests' own environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HPTUNE_", "PYTHON"))}
    return subprocess.run(
        [*before, *map(str, words)],
        cwd=cwd, env=kept | environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip
