"""What a searcher is told, and what it answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from service.study.search_space import SearchSpace, Values

if TYPE_CHECKING:
    from service.search.earlier import Earlier
    from service.search.forecast import Forecast

State = Literal["running", "paused", "ended", "failed"]
"""`running`: a worker is on its way to the next rung. `paused`: saved at its last rung, free to be advanced. `ended`:
complete, or not to be advanced for a reason of its own. `failed`: the configuration is to blame (it diverged, or it
does not fit the memory); it is known by that, never by a loss made up for it."""


def same_price(_: Values) -> float:
    """Every token costs as much as another."""
    return 1.0


@dataclass(frozen=True)
class Problem:
    """What stays the same during a search."""

    space: SearchSpace
    rungs: tuple[int, ...]
    """Training tokens at which every trial is evaluated, rising; the last is the budget of a whole trial."""
    seed: int
    price: Callable[[Values], float] = same_price
    """What a token costs at a configuration, in any unit: FLOPs or seconds where these are what is to be saved."""
    earlier: "tuple[Earlier, ...]" = ()
    """What other studies make one expect."""
    cells: tuple[Values, ...] = ()
    """The only configurations that can be had, where not every point of the space can."""


@dataclass(frozen=True)
class Begun:
    """A trial, as far as it has come."""

    number: int
    values: Values
    losses: tuple[float, ...]
    """At its rungs so far, of which `skipped` left no loss; finite."""
    state: State
    skipped: int = 0
    """Rungs before the first loss, of a result that comes from elsewhere."""

    @property
    def passed(self) -> int:
        """How many rungs it has come to."""
        return self.skipped + len(self.losses) if self.losses else 0


@dataclass(frozen=True)
class Advance:
    """Train the paused trial of this number on to its next rung."""

    number: int


@dataclass(frozen=True)
class Begin:
    """Begin a trial, and train it to the first rung."""

    values: Values | None
    """Its configuration; None leaves it to the study's sampler."""


@dataclass(frozen=True)
class Stop:
    """No further trial is worth its tokens, or there is none."""

    why: str
    """For people."""
    is_empty: bool = False
    """There is nothing left to be trained, however many tokens there are."""
    forecast: "Forecast | None" = None
    """What further trials would bring."""


Decision = Advance | Begin | Stop


class Searcher(Protocol):
    """A way to search."""

    def decide(self, problem: Problem, begun: Sequence[Begun], left: float = math.inf) -> Decision | None:
        """What the next free worker is to do; None where it is to wait for what others are at.

        Args:
            problem: what is searched.
            begun: all trials of the study; their numbers differ and are at least 0.
            left: tokens that may still be trained on, beyond those that running trials have on their way to their
                next rungs.
        """
        ...
