"""Text from outside, written so that Markdown shows it as it is."""

import re

_ANYWHERE = frozenset("\\`*_{}[]()<>#|!&~+-=.:")
_IN_A_LINE = frozenset("\\`*[]<>|&")


def escaped(text: str, *, readable: bool = False) -> str:
    """`text` on one line, as Markdown that shows it as it is; unprintable characters are replaced.

    Args:
        text: from outside.
        readable: leave alone what has a meaning at the beginning of a line or in few renderers, so that the source
            can be read, too; for text that stands after something else.
    """
    marks = _IN_A_LINE if readable else _ANYWHERE
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return "".join(f"\\{c}" if c in marks else c for c in line)


def fenced(text: str, language: str = "") -> str:
    """`text` as a code block that nothing in it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"
