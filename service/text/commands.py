"""Commands for people to paste, as they have to be given on their side: at the root of a checkout, where the package is
installed, or to Compose."""

import os
import shlex

from model.shipped import INSTALLED

CONTAINER = "HPTUNE_CONTAINER"
"""Set in the images: who reads a hint there has Docker and no environment."""


def verb(*words: str, containers: bool | None = None) -> str:
    """The call of a verb, `.venv/bin/python -m service confirm hn`, or `hptune confirm hn` of an installed package.

    `run` is the script's, which starts the containers itself where it is told to.

    Args:
        words: the verb and its arguments.
        containers: for people whose studies run in containers; whether this process does, unless given.
    """
    if INSTALLED:
        return shlex.join(["hptune", *words])
    if words[0] == "run":
        return shlex.join(["./hptune.sh", *words[1:]])
    if CONTAINER in os.environ if containers is None else containers:
        start = ["docker", "compose", "run", "--rm"]
        if words[0] == "workers":
            return shlex.join([*start, *words])  # a service of that name
        if words[0] == "evaluate":
            return shlex.join([*start, "evaluator", *words[1:]])
        return shlex.join([*start, "--entrypoint", "python -m service", "evaluator", *words])
    if words[0] == "evaluate":
        return shlex.join(
            ["python3", "evaluate.py", *words[1:]]
        )  # with any Python, it goes on in the environment's
    return shlex.join([".venv/bin/python", "-m", "service", *words])
