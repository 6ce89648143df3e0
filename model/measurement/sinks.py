"""The curves of a run in TensorBoard and Weights & Biases, for those who look there.

Both only repeat scalars of the run's records and evaluations: what counts is in `diagnostics.jsonl` and `curve.jsonl`.
A step's scalars keep their names, an evaluation's get `evaluation/` before them; the axis is the step, and `tokens` is
among them. Values that are not finite are written as NaN. Both libraries are optional.
"""

import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar

from model.config.train_config import TrainConfig
from model.errors import ConfigError
from model.measurement.diagnostics import Record
from model.measurement.evaluation_record import Evaluation

Scalars = dict[str, float]
Result = TypeVar("Result")


class Recorded(Protocol):
    """A run, as far as its curves go; `model.training.TrainingRun` is one."""

    config: TrainConfig
    evaluations: list[Evaluation]

    @property
    def diagnostics(self) -> list[Record]:
        """What was measured, in the order of time."""


class Sink(Protocol):
    """A place for curves."""

    def write(self, scalars: Scalars, step: int) -> None:
        """Add one point to each of these curves. Steps never go down."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """An event file in `folder`; what another run left there is no longer shown.

    Raises:
        ConfigError: TensorBoard is not installed.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _not_installed("diagnostics.tensorboard", "true", "tensorboard") from None
        self._writer: Any = SummaryWriter(str(folder), purge_step=0)

    def write(self, scalars: Scalars, step: int) -> None:
        """Add one point to each curve."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run in the project `hptune`, whose files are in `folder`/wandb; online it is also sent to the service.

    Raises:
        ConfigError: the library is not installed, or its service cannot be used.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["offline", "online"],
        group: str,
        name: str,
        config: Mapping[str, Any],
    ) -> None:
        try:
            import wandb
        except ImportError:
            raise _not_installed("diagnostics.wandb", mode, "wandb") from None
        folder.mkdir(parents=True, exist_ok=True)  # otherwise it falls back to a temporary one
        # quiet, and nothing of this machine: no console output, code, commit or use of its hardware
        settings = wandb.Settings(
            silent=True, console="off", disable_code=True, disable_git=True, x_disable_stats=True
        )
        try:
            self._run = wandb.init(
                dir=str(folder),
                project="hptune",
                group=group,
                name=name,
                config=dict(config),
                mode=mode,
                settings=settings,
                reinit="create_new",
            )
        except wandb.Error as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"diagnostics.wandb: given {mode}, and Weights & Biases says: {reason}"
            ) from None

    def write(self, scalars: Scalars, step: int) -> None:
        """Add one point to each curve."""
        self._run.log(scalars, step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


def _not_installed(key: str, given: str, package: str) -> ConfigError:
    install = f"{shlex.quote(sys.executable)} -m pip install {package}"
    return ConfigError(f"{key}: given {given}, which needs a package that is not here: {install}")


class Curves:
    """The sinks that a run's configuration asks for, kept up with the run. Use it in a `with` statement.

    A sink that cannot be written is dropped: the run is worth more than its curves.

    Args:
        run: as it stands; after a resume, what it recorded before is written again.
        folder: TensorBoard's files go under tensorboard/`group`/`name` there, Weights & Biases' under wandb.
        group: what the run belongs to, such as its study; may be empty.
        name: of the run within it.
        warn: told when a sink is dropped, and why.

    Raises:
        ConfigError: a sink cannot be used as it is given.
    """

    def __init__(
        self, run: Recorded, folder: Path, *, group: str, name: str, warn: Callable[[str], None]
    ) -> None:
        self._run = run
        self._warn = warn
        self._records = self._evaluations = 0
        chosen = run.config.diagnostics
        makers: list[Callable[[], Sink]] = []
        if chosen.tensorboard:
            makers.append(partial(TensorBoard, folder / "tensorboard" / group / name))
        if chosen.wandb is not None:
            facts = run.config.model_dump(mode="json")
            makers.append(
                partial(WeightsAndBiases, folder, mode=chosen.wandb, group=group, name=name, config=facts)
            )
        made = [self._tried(maker) for maker in makers]
        self._sinks = [sink for sink in made if sink is not None]

    def write(self) -> None:
        """Add what the run has recorded since the last call."""
        if not self._sinks:
            return
        evaluations = [
            {name: value for name, value in evaluation.as_dict().items() if value is not None}
            for evaluation in self._run.evaluations[self._evaluations :]
        ]
        records = self._run.diagnostics[self._records :]
        self._records, self._evaluations = len(self._run.diagnostics), len(self._run.evaluations)
        points = sorted([*_points(records), *_points(evaluations)], key=lambda point: point[0])
        self._sinks = [sink for sink in self._sinks if self._tried(partial(_write, sink, points))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.write()  # a run that diverges has more to tell than at its last rung
        for sink in self._sinks:
            self._tried(sink.close)

    def _tried(self, action: Callable[[], Result]) -> Result | None:
        try:
            return action()
        except OSError as error:
            self._warn(f"curves not written: {error}")
            return None


def _write(sink: Sink, points: Iterable[tuple[int, Scalars]]) -> bool:
    for step, scalars in points:
        sink.write(scalars, step)
    return True


def _points(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Scalars]]:
    for record in records:
        prefix = "evaluation/" if "rung_tokens" in record else ""
        scalars = {
            prefix + name: math.nan if value is None else value
            for name, value in record.items()
            if name != "step" and (value is None or isinstance(value, int | float))
        }
        yield record["step"], scalars
