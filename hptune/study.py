"""A study of the storage, opened from Python. Each call is one line; torch is imported where one needs it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from model.errors import UserError
from service.settings import Settings
from service.storage import opened_study
from service.storage.database import open_storage
from service.study.definition import StudyDefinition
from service.study.run_config import RunConfig
from service.text import terminal

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from model.checkpoint import Checkpoint


def create(
    study: str | Path,
    *,
    name: str | None = None,
    trials: int | None = None,
    scale: str | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the command line has it
    settings: Settings | None = None,
    say: Callable[[str], None] = print,
) -> "Study":
    """Make a study from its file, or open the one that was made from it.

    Args:
        study: A folder under `studies/`, here or of those that come with the package, or the path of a `study.yaml`.
        name: What to call it in the storage; the folder's name unless given.
        trials: How many it shall finish in all; its file's number, or its whole design, unless given.
        scale: One of the sizes that its file has.
        set: Values by dotted key for the base file, such as `{"training.tokens": 10_000_000}`.
        settings: Where storage, artifacts and cache are; the environment's unless given.
        say: Takes lines about what takes long.

    Raises:
        UserError: something given cannot be used, or the study was made differently.
    """
    from service.machine.create import create as create_study

    places = settings or Settings.from_environment()
    made, _ = create_study(
        places, str(study), name=name, overrides=set or {}, scale=scale, total=trials, say=say
    )
    return Study(made, places)


def open_study(name: str, *, settings: Settings | None = None) -> "Study":
    """A study of the storage. Raises UserError: there is none of this name, or it is not hptune's."""
    return Study(name, settings or Settings.from_environment())


def studies(*, settings: Settings | None = None) -> list[str]:
    """The names of all studies in the storage, those that Optuna itself has made among them."""
    storage = open_storage(settings or Settings.from_environment())
    return sorted(study.study_name for study in storage.get_all_studies())


class Study:
    """A study of the storage.

    Args:
        name: in the storage.
        settings: where storage, artifacts and cache are.

    Raises:
        UserError: there is none of this name, or it is not hptune's.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self._opened = opened_study.open_study(settings, name)
        self.optuna: optuna.Study = self._opened.study
        """The same study as Optuna has it: its visualizations, its importances, `enqueue_trial`, `add_trial`."""
        self.definition: StudyDefinition = self._opened.definition
        """Question, base configuration, search space, sampler, pruner."""

    def __repr__(self) -> str:
        return f"<hptune study {self.name!r} in {self.settings.storage_shown}>"

    def run(self, trials: int | None = None, *, workers: int | None = None) -> "Study":
        """Finish that many more trials on this machine, or all that are left, in worker processes.

        Args:
            trials: how many more.
            workers: processes; one a GPU, or one for two cores, unless given.

        Raises:
            UserError: nothing can be trained with what was given.
            KeyboardInterrupt: it was interrupted; every running trial is saved.
            RuntimeError: workers failed; what they said stands above.
        """
        from service.machine.run import go_on

        try:
            go_on(self.settings, self.name, trials=trials, workers=workers, console=terminal.console())
        except SystemExit as ended:
            if ended.code == 130:
                raise KeyboardInterrupt from None
            raise RuntimeError(f"study {self.name}: workers failed; what they said stands above") from None
        return self

    def trials(self, *, whole: bool = False) -> list[dict[str, Any]]:
        """One dictionary a trial: state, loss, hyperparameters by dotted key, every figure that it has recorded.

        Args:
            whole: with every key of its configuration, in place of those that the study varies.
        """
        from service.catalogue.table import rows

        return rows(self.optuna, self.definition, whole=whole)

    def frame(self, *, whole: bool = False) -> "pd.DataFrame":
        """`trials` as a data frame. Raises UserError: pandas is not installed."""
        try:
            import pandas as pd
        except ImportError:
            raise UserError(
                "a data frame needs pandas (pip install pandas); `trials()` does without"
            ) from None
        found = self.trials(whole=whole)
        return pd.DataFrame(found, columns=list(found[0]) if found else ["trial", "state", "val_loss"])

    def best_config(self, *, trial: int | None = None) -> RunConfig:
        """The configuration that the study recommends: the confirmed winner's, else the best trial's.

        Args:
            trial: this one's in its place.

        Raises:
            UserError: no trial has finished, or there is no such one.
        """
        from service.winner.choice import choose

        return choose(self.settings, self.name, trial=trial).config

    def checkpoint(self, *, trial: int | None = None) -> "Checkpoint":
        """The best model that was kept, or this trial's; `.model()` is the network, `.tokenizer` its tokenizer.

        Raises:
            UserError: there is none, or its weights were not kept.
        """
        from service.winner.choice import choose

        return choose(self.settings, self.name, trial=trial).checkpoint(self.settings)

    def generate(
        self,
        prompt: str = "",
        *,
        number: int = 5,
        temperature: float = 0.8,
        seed: int = 0,
        trial: int | None = None,
    ) -> tuple[str, ...]:
        """Titles drawn from the best model, or from this trial's, each beginning with `prompt`. Raises UserError."""
        from service.winner import titles

        checkpoint = self.checkpoint(trial=trial)
        return titles.draw(checkpoint, prompt=prompt, number=number, temperature=temperature, seed=seed)

    def figures(self) -> dict[str, "tuple[go.Figure, ...]"]:
        """Every figure that the report would show now, by name, each of one panel or more."""
        from service.report.figures import interactive, overview, tuned
        from service.report.record.study_record import read
        from service.storage.added import only_in_space

        record = read(self.optuna, self.definition, self._opened.store)
        plots = list(overview.build(record, None))
        if record.tuned:
            seen = only_in_space(self.optuna, self.definition.space, self._opened.key.generation)
            plots += tuned.plots(record, self.optuna, tuned.importances(seen))
        return {plot.id: interactive.draw(plot) for plot in plots}

    def plot(self, name: str, *, panel: int = 0) -> "go.Figure":
        """One figure, such as `history`; a notebook shows it. Raises UserError with the names there are."""
        found = self.figures()
        if name not in found:
            there = ", ".join(found) or "none before a trial has finished"
            raise UserError(f"figure {name!r} is not there, allowed: {there}")
        if not 0 <= panel < len(found[name]):
            raise UserError(f"figure {name!r}: panel {panel}, allowed: 0 to {len(found[name]) - 1}")
        return found[name][panel]
