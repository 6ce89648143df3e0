"""Training code of the user's as what a study trains: their class, watched and kept to what it has to do.

Their exceptions come out of here as `OwnCodeFailed`, with the exception as its cause; what the class does other than
it should (`service.trials.contract.OwnCode`) as `OwnCodeError`, which ends the worker: it would be so in every trial.
"""

import contextlib
import copy
import json
import math
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from model.errors import CheckpointError, Diverged
from service.storage.artifacts import STATE
from service.study.own_code import OwnCodeError, OwnCodeFailed, failing, told
from service.study.own_run import OwnConfig, OwnRunKind, imported
from service.study.run_config import RunConfig
from service.trials.contract import OwnCode, Record

_FACTS, _OWN = "hptune.json", "own/"
"""In a saved state: what is known here, and the folder that the class has written."""
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

    def as_dict(self) -> dict[str, Any]:
        """Its fields, for JSON."""
        fields = asdict(self)
        others = {f"{OTHER_METRICS}{name}": value for name, value in fields.pop("others").items()}
        return {**fields, "tokens_per_second": self.tokens_per_second, **others}


class OwnRun:
    """A run of the user's class, as `service.trials.contract.Run` says.

    Args:
        config: what it trains.
        own: an object of the class.
        kind: of the study.
    """

    diagnostics: tuple[Record, ...] = ()
    arithmetic = ""

    def __init__(self, config: OwnConfig, own: OwnCode, kind: OwnRunKind) -> None:
        self.config = config
        self.evaluations: list[OwnEvaluation] = []
        self._own = own
        self._kind = kind
        self._stopped = False

    @property
    def tokens(self) -> int:
        """How long it had trained at its last evaluation."""
        return self.evaluations[-1].tokens if self.evaluations else 0

    @property
    def finished(self) -> bool:
        """Every rung has been evaluated."""
        return len(self.evaluations) == len(self.config.rungs)

    def stop(self) -> None:
        """End the iteration; an evaluation that the class still makes counts."""
        self._stopped = True
        self._own.stop()

    def __iter__(self) -> Iterator[OwnEvaluation]:
        """Train, and yield an evaluation at every rung; the errors are those of `iterate`."""
        return self.iterate()

    def iterate(self, *, heeds_stop: bool = True) -> Iterator[OwnEvaluation]:
        """Train, and yield an evaluation at every rung.

        Args:
            heeds_stop: ask the class for nothing more once it has been stopped, whatever it would do.

        Raises:
            Diverged: the value is not finite.
            OwnCodeFailed: the class has raised.
            OwnCodeError: it yields something else, or at another budget.
        """
        iterator: Iterator[Any] | None = None
        seconds = self.evaluations[-1].train_seconds if self.evaluations else 0.0
        while not (self.finished or (heeds_stop and self._stopped)):
            started = time.perf_counter()
            with theirs():
                iterator = iter(self._own) if iterator is None else iterator
                found = next(iterator, None)
            seconds += time.perf_counter() - started
            if found is None:
                if not self._stopped:
                    raise self._fault(
                        f"ended after {len(self.evaluations)} of {len(self.config.rungs)} evaluations"
                    )
                return
            self.evaluations.append(self._evaluation(found, seconds))
            yield self.evaluations[-1]

    def _evaluation(self, found: Any, seconds: float) -> OwnEvaluation:
        """What the class has yielded, checked."""
        unit, rungs = self._kind.budget.unit, self.config.rungs
        rung = rungs[len(self.evaluations)]
        if not (isinstance(found, tuple) and len(found) == 2):
            raise self._fault(f"yielded {_shown(found)}, must yield (how long it has trained, the value)")
        trained, given = found
        after = rungs[len(self.evaluations) + 1] if len(self.evaluations) + 1 < len(rungs) else math.inf
        if not _is_whole(trained) or not rung <= trained < after:
            before = f" and before {after}" if after < math.inf else ""
            raise self._fault(f"evaluated at {_shown(trained)} {unit}, must be at {rung}{before}")
        values = dict(given) if isinstance(given, Mapping) else {self._kind.metric: given}
        if self._kind.metric not in values:
            raise self._fault(
                f"yielded {', '.join(map(str, values))}, must have {self._kind.metric!r} among them"
            )
        numbers = {str(name): _number(value) for name, value in values.items()}
        for name, number in numbers.items():
            if number is None:
                raise self._fault(f"yielded {_shown(values[name])} as {name}, must be a number")
        value = numbers.pop(self._kind.metric)
        assert value is not None
        if not math.isfinite(value):
            raise Diverged(f"{self._kind.metric} {value} at {trained} {unit}")
        others = {name: number for name, number in numbers.items() if number is not None}
        return OwnEvaluation(rung, int(trained), value, seconds, others)

    def _fault(self, what: str) -> OwnCodeError:
        return OwnCodeError(f"run: {self._kind.run}: {what}")

    def save(self, path: Path) -> None:
        """Write the class's state and the evaluations so far to one file. Raises OSError, OwnCodeFailed."""
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            folder = Path(name)
            with theirs(but=OSError):
                self._own.save(folder)
            facts = {"identity": self._identity(), "evaluations": [asdict(each) for each in self.evaluations]}
            with zipfile.ZipFile(path, "w") as archive:  # not compressed, and each file with its checksum
                archive.writestr(_FACTS, json.dumps(facts))
                for file in sorted(folder.rglob("*")):
                    archive.write(file, f"{_OWN}{file.relative_to(folder)}")

    def load(self, path: Path) -> Self:
        """Take up a saved state. Raises CheckpointError: it is damaged, another run's, or the class refuses it."""
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            try:
                facts = unpack(path, Path(folder))
                self.evaluations = [OwnEvaluation(**fields) for fields in facts["evaluations"]]
                identity = facts["identity"]
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"{path}: incomplete or of another version: {error!r}") from None
            if identity != self._identity():
                raise CheckpointError(f"{path}: the state of another run: class or configuration differ")
            try:
                self._own.restore(Path(folder))
            except Exception as error:
                raise CheckpointError(f"{path}: {self._kind.run}.restore: {told(error)}") from None
        return self

    def _identity(self) -> dict[str, Any]:
        config = json.loads(json.dumps(self.config.tree))
        return {"run": self._kind.run, "config": config, "rungs": list(self.config.rungs)}

    def write_checkpoint(self, folder: Path, **_record: Any) -> None:
        """Write its state, which is all that is known of its model."""
        self.save(folder / STATE)

    def facts(self) -> dict[str, Any]:
        """Attributes of its trial: none besides its configuration."""
        return {}

    def origin(self) -> dict[str, Any]:
        """What of its code belongs to the provenance."""
        return {"run": self._kind.run, "code": self._kind.fingerprint}

    def drawn(
        self,
        _folder: Path,
        *,
        group: str,  # noqa: ARG002
        name: str,  # noqa: ARG002
        warn: Callable[[str], None],  # noqa: ARG002
    ) -> "_Nowhere":
        """Curves elsewhere are the class's own affair."""
        return _Nowhere()

    def noted(self) -> dict[str, str]:
        """Rows of its trial's note."""
        return {}

    def titles(self) -> tuple[str, ...]:
        """None: what its model is, is not known."""
        return ()


class _Nowhere(contextlib.AbstractContextManager["_Nowhere"]):
    def __exit__(self, *_: object) -> None: ...

    def write(self) -> None: ...


class OwnTraining:
    """A class of the user's as what a study trains, as `service.trials.contract.Training` says.

    Args:
        kind: of the study, the class not imported yet.
        folders: where its module is looked for.
        device: `cpu`, `cuda` or `cuda:0`.

    Raises:
        OwnCodeError: the class cannot be had.
    """

    def __init__(self, kind: OwnRunKind, folders: list[Path], device: str) -> None:
        self._class, self._kind = imported(kind, folders)
        self._device = device

    @property
    def fingerprint(self) -> str:
        """Of the file that has the class."""
        return self._kind.fingerprint

    def begin(self, config: RunConfig) -> OwnRun:
        """The run of a configuration, from its beginning. Raises OwnCodeFailed."""
        assert isinstance(config, OwnConfig)
        given: Any = copy.deepcopy(config.tree)
        if self._kind.schema is not None:
            with failing(f"run: {self._kind.run}.Config"):
                given = self._kind.schema.model_validate_json(json.dumps(given))
        with theirs():
            own: OwnCode = self._class(given, rungs=config.rungs, device=self._device)
        return OwnRun(config, own, self._kind)

    def resume(self, path: Path, config: RunConfig) -> OwnRun:
        """The run of a configuration, from a saved state on. Raises CheckpointError, OwnCodeFailed."""
        return self.begin(config).load(path)

    def described(self, _config: RunConfig) -> dict[str, str]:
        """Rows of a trial's note that need no run."""
        return {"trains": self._kind.run}


@contextlib.contextmanager
def theirs(*, but: type[Exception] | tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """What the user's code raises comes out as `OwnCodeFailed`, with it as the cause."""
    try:
        yield
    except but:
        raise
    except Exception as error:
        raise OwnCodeFailed(told(error)) from error


def unpack(path: Path, folder: Path) -> dict[str, Any]:
    """Put what a class has saved back into a folder; what is known of it here. Raises CheckpointError."""
    try:
        with zipfile.ZipFile(path) as archive:
            facts: dict[str, Any] = json.loads(archive.read(_FACTS))
            for member in archive.infolist():
                if member.filename.startswith(_OWN):
                    member.filename = member.filename.removeprefix(_OWN)
                    archive.extract(member, folder)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path}: no saved state, or a damaged one: {error}") from None
    return facts


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
