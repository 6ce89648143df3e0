"""Text from outside, written so that Markdown shows it as it is."""

import re

_MARKDOWN = frozenset("\\`*_{}[]()<>#|!&~+-=.:")


def escaped(text: str) -> str:
    """`text` on one line, as Markdown that shows it as it is; unprintable characters are replaced."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return "".join(f"\\{c}" if c in _MARKDOWN else c for c in line)


def fenced(text: str, language: str = "") -> str:
    """`text` as a code block that nothing in it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"
