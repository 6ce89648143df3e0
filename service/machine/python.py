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
    What PYTHONPATH names stays behind the project: on clusters it is how a loaded module brings its packages.
    """
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))  # "" would be the current folder
    found = {} if INSTALLED else {"PYTHONPATH": os.pathsep.join([str(ROOT), *given])}
    return {"args": [sys.executable, "-P", *arguments], "env": {**os.environ, **found}}
