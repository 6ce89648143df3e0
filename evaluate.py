#!/usr/bin/env python3
"""Scores a study's best checkpoints on held-out titles: `python3 evaluate.py --study hn [--top 5]`.

Called with any Python, it goes on in the project's own environment.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PYTHON = ROOT / ".venv" / "bin" / "python"
STARTED = "HPTUNE_EVALUATE_STARTED"
"""Set for the environment's Python, which may be a wrapper around one elsewhere: it is not looked for again."""


def main() -> None:
    """Find an interpreter that has the project's packages, and run the verb `evaluate` with it."""
    started = os.environ.pop(STARTED, None)
    if not started and PYTHON.exists() and Path(sys.prefix).resolve() != PYTHON.parent.parent.resolve():
        environment = {**os.environ, STARTED: "1"}
        try:
            os.execve(PYTHON, [str(PYTHON), str(Path(__file__).resolve()), *sys.argv[1:]], environment)
        except OSError as error:
            sys.exit(f"error: {PYTHON}: cannot be run: {error.strerror}; ./hptune.sh sets up the environment")
    sys.path.insert(0, str(ROOT))  # Python itself does so, except under PYTHONSAFEPATH
    try:
        from service.__main__ import cli
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}; ./hptune.sh sets up the environment")
    cli(["evaluate", *sys.argv[1:]], prog_name="evaluate.py")


if __name__ == "__main__":
    main()
