"""How this project's own Python processes are started: from any folder, whatever lies in it."""

import os
import sys
from typing import Any

from model.shipped import INSTALLED
from service.settings import ROOT


def python(*arguments: str) -> dict[str, Any]:
    """`args` and `env` of a subprocess that runs Python with `arguments`.

    The project is found wherever the process is started, and nothing of the current folder is taken for one of its
    modules: `-m` and `-c` alone would put that folder first, where a model.py or a service/ of the user's may lie.
    """
    found = {} if INSTALLED else {"PYTHONPATH": str(ROOT)}
    return {"args": [sys.executable, "-P", *arguments], "env": {**os.environ, **found}}
