"""A trial's learning curve as an image, drawn without a plotting library: the dashboard shows images at once."""

import math
from collections.abc import Sequence

from service.text.quantities import shortened
from service.text.words import GPT, Words

WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 34, 44


def curve_svg(points: Sequence[tuple[int, float]], *, budget_tokens: int, words: Words = GPT) -> str:
    """The validation loss over training tokens.

    Args:
        points: training tokens and `val_loss` (finite) at every rung passed.
        budget_tokens: where the axis of tokens ends.
        words: what both are called.
    """
    losses = [loss for _, loss in points]
    step = _tick_step(max(losses) - min(losses) or abs(max(losses)) / 10 or 1.0)
    low = math.floor(min(losses) / step) * step
    high = math.ceil(max(losses) / step + 1e-9) * step

    def x(tokens: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * tokens / budget_tokens, 1)

    def y(loss: float) -> float:
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (loss - low) / (high - low), 1)

    bottom = HEIGHT - _BOTTOM
    marks = []
    digits = max(0, -math.floor(math.log10(step)))
    for i in range(round((high - low) / step) + 1):
        at = y(low + i * step)
        marks.append(f'<line x1="{_LEFT}" y1="{at}" x2="{WIDTH - _RIGHT}" y2="{at}" stroke="#ddd"/>')
        marks.append(_text(_LEFT - 8, at + 4, f"{low + i * step:.{digits}f}", anchor="end"))
    for quarter in range(5):
        tokens = budget_tokens * quarter // 4
        marks.append(_text(x(tokens), bottom + 18, shortened(tokens), anchor="middle"))
    marks.append(_text(WIDTH - _RIGHT, HEIGHT - 6, f"training {words.budget}", anchor="end"))
    marks.append(_text(_LEFT, 20, f"{words.objective}: {losses[-1]:.4f} at the last rung"))
    line = " ".join(f"{x(tokens)},{y(loss)}" for tokens, loss in points)
    dots = "".join(f'<circle cx="{x(tokens)}" cy="{y(loss)}" r="3"/>' for tokens, loss in points)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#333">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{"".join(marks)}'
        f'<polyline points="{line}" fill="none" stroke="#1a66b3" stroke-width="2"/>'
        f'<g fill="#1a66b3">{dots}</g></svg>\n'
    )


def _tick_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that a span has about four of them."""
    power: float = 10.0 ** math.floor(math.log10(span / 4))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / 4)


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{round(y, 1)}" text-anchor="{anchor}">{text}</text>'
