#!/usr/bin/env python3
"""Scores a study's best checkpoints on held-out titles: `python evaluate.py --study hn [--top 5]`.

Called with any Python, it goes on in the project's own environment.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PYTHON = ROOT / ".venv" / "bin" / "python"


def main() -> None:
    """Find an interpreter that has the project's packages, and run the verb `evaluate` with it."""
    if PYTHON.exists() and Path(sys.prefix).resolve() != PYTHON.parent.parent.resolve():
        os.execv(PYTHON, [str(PYTHON), str(Path(__file__).resolve()), *sys.argv[1:]])
    try:
        from service.__main__ import cli
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}; ./hptune.sh sets up the environment")
    cli(["evaluate", *sys.argv[1:]], prog_name="evaluate.py")


if __name__ == "__main__":
    main()
