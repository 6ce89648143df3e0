"""How numbers, durations and parameters are written for people."""

from collections.abc import Mapping
from typing import Any

_SAYS_NOTHING_ALONE = ("name", "method", "model")


def shown_params(params: Mapping[str, Any]) -> str:
    """Parameters as `lr 0.0012, batch_size 64`: the short form of each key, and its value."""
    return ", ".join(f"{short_key(key)} {shown_number(value)}" for key, value in params.items()) or "–"


def short_key(key: str) -> str:
    """The last part of a dotted key, `lr`; where that says nothing alone, the one before: `optimizer.name`."""
    *before, last = key.split(".")
    return before[-1] if before and last in _SAYS_NOTHING_ALONE else last


def shown_number(value: Any) -> str:
    """A parameter's value with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shortened(value: float, *, digits: int = 3, least: float = 1e3) -> str:
    """A number of an axis with k, M, G or T, to so many significant digits; below `least` in full."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, least):
            return f"{value / size:.{digits}g} {unit}"
    return f"{value:.6g}"


def shown_operations(count: float) -> str:
    """A number of floating-point operations, `1.234e15`."""
    digits, _, power = f"{count:.3e}".partition("e")
    return f"{digits}e{int(power)}"


def shown_seconds(seconds: float) -> str:
    """A duration as `45 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
