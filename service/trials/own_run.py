"""Training code of the user's as what a study trains: their class, watched and kept to what it has to do.

Their exceptions come out of here as `OwnCodeFailed`, with the exception as its cause; what the class does other than
it should (`service.trials.contract.OwnCode`) as `OwnCodeError`, which ends the worker: it would be so in every trial.
"""

import contextlib
import copy
import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from model.errors import CheckpointError
from service.storage.artifacts import STATE
from service.study.own_code import OwnCodeError, OwnCodeFailed, failing, own_traceback, told
from service.study.own_run import OwnConfig, OwnRunKind, imported
from service.study.run_config import RunConfig
from service.trials.contract import OwnCode, Record
from service.trials.own_evaluation import OwnEvaluation, evaluated

_FACTS, _OWN = "hptune.json", "own/"
"""In a saved state: what is known here, and the folder that the class has written."""


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
                    ended = f"ended after {len(self.evaluations)} of {len(self.config.rungs)} evaluations"
                    raise OwnCodeError(f"run: {self._kind.run}: {ended}")
                return
            evaluation = evaluated(found, self._kind, self.config.rungs, len(self.evaluations), seconds)
            self.evaluations.append(evaluation)
            yield self.evaluations[-1]

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
                refused = CheckpointError(f"{path}: {self._kind.run}.restore: {told(error)}")
                refused.shown_above = own_traceback(error)
                raise refused from None
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
