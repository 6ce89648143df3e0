"""How a verb is called here, for hints that a person can type: in a checkout, or where the package is installed."""

import shlex

from model.shipped import INSTALLED

_IN_CHECKOUT = {"run": "./hptune.sh", "evaluate": "python evaluate.py"}


def call(verb: str, *words: str) -> str:
    """The command line of a verb."""
    script = f"hptune {verb}" if INSTALLED else _IN_CHECKOUT.get(verb, f"python -m service {verb}")
    return " ".join(filter(None, (script, shlex.join(words))))
