"""What a class of the user's yields at a rung: checked, and as the service keeps it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model.errors import Diverged
from service.study.own_code import OwnCodeError
from service.study.own_run import OwnRunKind

OTHER_METRICS = "metrics/"
"""Begins the names of what else a class yields, so that none of them is taken for one of ours."""


@dataclass(frozen=True)
class OwnEvaluation:
    """A run at one rung, as `service.study.run_config.Evaluated` says. Budgets are in units of its own."""

    rung_tokens: int
    tokens: int
    """As the class says."""
    val_loss: float
    """What it minimises, whatever that is."""
    train_seconds: float
    """In the class's code since the start of the run, evaluations included, over all its attempts."""
    others: Mapping[str, float]
    """Further numbers that it has yielded."""

    @property
    def tokens_per_second(self) -> float:
        """Units of the budget."""
        return self.tokens / self.train_seconds if self.train_seconds else math.nan

    @property
    def seconds(self) -> float:
        """`train_seconds`, which has all."""
        return self.train_seconds

    def as_dict(self) -> dict[str, Any]:
        """Its fields, for JSON."""
        fields = asdict(self)
        others = {f"{OTHER_METRICS}{name}": value for name, value in fields.pop("others").items()}
        return {**fields, "tokens_per_second": self.tokens_per_second, **others}


def evaluated(
    found: Any, kind: OwnRunKind, rungs: Sequence[int], passed: int, seconds: float
) -> OwnEvaluation:
    """The evaluation in what a class has yielded.

    Args:
        found: by the class.
        kind: of the study, for the name of its metric.
        rungs: of the run.
        passed: how many of them have an evaluation already.
        seconds: spent in the class.

    Raises:
        OwnCodeError: it is none, or is not at its rung.
        Diverged: the value is not finite.
    """

    def fault(what: str) -> OwnCodeError:
        return OwnCodeError(f"run: {kind.run}: {what}")

    unit, rung = kind.budget.unit, rungs[passed]
    if not (isinstance(found, tuple) and len(found) == 2):
        raise fault(f"yielded {_shown(found)}, must yield (how long it has trained, the value)")
    trained, given = found
    after = rungs[passed + 1] if passed + 1 < len(rungs) else math.inf
    if not _is_whole(trained) or not rung <= trained < after:
        before = f" and before {after}" if after < math.inf else ""
        raise fault(f"evaluated at {_shown(trained)} {unit}, must be at {rung}{before}")
    values = dict(given) if isinstance(given, Mapping) else {kind.metric: given}
    if kind.metric not in values:
        raise fault(f"yielded {', '.join(map(str, values))}, must have {kind.metric!r} among them")
    numbers = {str(name): _number(value) for name, value in values.items()}
    for name, number in numbers.items():
        if number is None:
            raise fault(f"yielded {_shown(values[name])} as {name}, must be a number")
    value = numbers.pop(kind.metric)
    assert value is not None
    if not math.isfinite(value):
        raise Diverged(f"{kind.metric} {value} at {trained} {unit}")
    others = {name: number for name, number in numbers.items() if number is not None}
    return OwnEvaluation(rung, int(trained), value, seconds, others)


def _number(value: Any) -> float | None:
    """A number as Python's own, also of numpy and torch; None of anything else."""
    if isinstance(value, bool | str):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__index__")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
