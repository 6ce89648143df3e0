"""What a trial asks of its training run. The built-in GPT is one (`service.trials.gpt`), a class of the user's another.

Nothing else in this room knows what is trained. What a user's class has to have is less: `OwnCode`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from service.study.run_config import Evaluated, RunConfig

Record = dict[str, Any]


class OwnCode(Protocol):
    """A class of the user's, called as `Run(config, rungs=..., device=...)`.

    Args of the call:
        config: an instance of its attribute `Config`, a pydantic model, where it has one; a plain dictionary otherwise.
        rungs: the budgets of its evaluations, whole numbers in units of its own, rising; the last ends it.
        device: `cpu`, `cuda` or `cuda:0`.

    One whose values are not the same to the last bit when it is run again says so: `exact = False` in the class.
    """

    def __iter__(self) -> Iterator[tuple[int, float | Mapping[str, float]]]:
        """Train, and at every rung yield how long it has trained and the value to minimise, or several by name.

        At that point it may be saved, and left for ever. After `restore` it goes on with the rung that follows.
        """

    def save(self, folder: Path, /) -> None:
        """Write the whole state into an empty folder."""

    def restore(self, folder: Path, /) -> None:
        """Take up a state that a run of the same configuration has saved, in another process. Before any training."""

    def stop(self) -> None:
        """End the iteration soon, without another evaluation. Called from another thread."""


class Drawn(Protocol):
    """Curves elsewhere, kept up with a run."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def write(self) -> None:
        """Add what the run has recorded since the last call."""


class Run(Protocol):
    """The training run of a trial: an iterator of evaluations that can be left, saved and resumed to the bit."""

    @property
    def config(self) -> RunConfig:
        """What it trains."""

    @property
    def evaluations(self) -> Sequence[Evaluated]:
        """One for every rung passed, those before it was resumed among them."""

    @property
    def diagnostics(self) -> Sequence[Record]:
        """What was measured besides, in the order of time."""

    @property
    def tokens(self) -> int:
        """How long it has trained, in units of its budget."""

    @property
    def finished(self) -> bool:
        """Every rung has been evaluated."""

    @property
    def arithmetic(self) -> str:
        """The number format it computes in; empty where that is not known."""

    def __iter__(self) -> Iterator[Evaluated]:
        """Train, and yield an evaluation at every rung. Raises Diverged: something became non-finite."""

    def stop(self) -> None:
        """End the iteration after the current step, without an evaluation. Safe in a signal handler."""

    def save(self, path: Path) -> None:
        """Write the state to one file. Raises OSError: it cannot be written."""

    def write_checkpoint(self, folder: Path, **record: Any) -> None:
        """Write what is kept of the best trials, as `service.storage.artifacts.attach_checkpoint` takes it."""

    def facts(self) -> dict[str, Any]:
        """Attributes of its trial."""

    def origin(self) -> dict[str, Any]:
        """What of its code and data belongs to the provenance."""

    def drawn(self, folder: Path, *, group: str, name: str, warn: Callable[[str], None]) -> Drawn:
        """Its curves elsewhere, where the configuration asks for some."""

    def noted(self) -> dict[str, str]:
        """Rows of its trial's note."""

    def titles(self) -> Sequence[str]:
        """Texts drawn from the model, if it is of such a kind."""


class Training(Protocol):
    """What all trials of a study train."""

    def begin(self, config: RunConfig) -> Run:
        """The run of a configuration, from its beginning."""

    def resume(self, path: Path, config: RunConfig) -> Run:
        """The run of a configuration, from a saved state on. Raises CheckpointError: it is damaged or another one's."""

    def described(self, config: RunConfig) -> dict[str, str]:
        """Rows of a trial's note that need no run."""
