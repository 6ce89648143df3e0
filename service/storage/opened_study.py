"""A study that has been opened: the study and all that is kept with it, for whoever reads it or works on it."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import optuna

from service.settings import Settings
from service.storage.budget import Budget
from service.storage.database import open_patiently, open_storage
from service.storage.outages import Patience
from service.storage.ownership import key_of
from service.storage.roster import Roster
from service.storage.schema import StudyKey
from service.storage.slots import Slots
from service.storage.studies import corpus_facts, load_study, made_as
from service.storage.study_storage import StudyStorage
from service.study.definition import StudyDefinition
from service.study.prices import Prices
from service.study.run_config import RunConfig
from service.study.spend import refuse_number, shown_cost, unit_of

if TYPE_CHECKING:
    from model.data.corpus import Corpus
    from service.storage.artifact_stores import Store


@dataclass(frozen=True)
class OpenedStudy:
    """A study of this project in its storage."""

    settings: Settings
    storage: StudyStorage
    study: optuna.Study
    definition: StudyDefinition
    """As stored."""

    @property
    def name(self) -> str:
        """In the storage."""
        return self.study.study_name

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Fingerprint, source, artifact id and notes of its corpus or of its own training code, and its budget."""
        return corpus_facts(self.study)

    @cached_property
    def base_config(self) -> RunConfig:
        """What the baseline trains, its budget in tokens."""
        return self.definition.base_config.with_tokens(self.facts["budget_tokens"])

    @cached_property
    def key(self) -> StudyKey:
        """What its slots and workers are known by."""
        return key_of(self.study)

    @cached_property
    def slots(self) -> Slots:
        """Its budget."""
        return Slots(self.storage.engine, self.key)

    @cached_property
    def budget(self) -> Budget | None:
        """Its budget in tokens or in a unit of its own, where trials pause; None where it is the slots."""
        return Budget(self.slots) if self.definition.pauses else None

    @cached_property
    def prices(self) -> Prices | None:
        """What tokens cost in a budget in operations; None in any other."""
        definition = self.definition
        return Prices(definition.base, definition.space) if unit_of(definition.spend) == "flops" else None

    def trials_left(self) -> int:
        """How many trials are still to finish; where trials pause, whole ones that can be paid for, rounded up."""
        if self.budget is None:
            counts = self.slots.counts()
            return counts["open"] + counts["leased"]
        seen = self.budget.read()
        if seen is None:
            return 0
        rungs = self.base_config.rungs
        price = seen.price_of_new(self.prices.of_base if self.prices else None)
        dearest = max(after - before for before, after in pairwise((0, *rungs)))  # they differ by a token
        return seen.trials_left(rungs[-1], rung=dearest, price=price)

    def shown_left(self, trials: int) -> str:
        """What is left, where that is so many trials: `3 trials`, `tokens of 3 trials`, `1.2e15 FLOPs`."""
        counted = f"{trials} trial" if trials == 1 else f"{trials} trials"
        budget = self.definition.words.budget
        if self.definition.spend is None or self.budget is None:
            return f"{budget} of {counted}" if self.budget else counted
        seen = self.budget.read()
        return shown_cost(seen.left if seen else 0, unit_of(self.definition.spend), budget=budget)

    def shown_spent(self) -> str | None:
        """What of its budget is spent and what is left; None where the budget is a number of trials."""
        seen = self.budget.read() if self.budget else None
        return seen.shown(self.definition.words.budget) if seen else None

    @cached_property
    def roster(self) -> Roster:
        """Its workers."""
        return Roster(self.storage.engine, self.key, lease_seconds=self.settings.lease_seconds)

    @cached_property
    def store(self) -> "Store":
        """Where its artifacts are. Raises StoreError: not at such a location."""
        from service.storage.artifact_stores import open_store  # brings boto3, which `status` has no use for

        return open_store(self.settings.artifacts)

    @cached_property
    def corpus(self) -> "Corpus":
        """Its corpus, from the cache or else from the artifact store.

        Raises:
            CorpusError: it is not there.
            ConfigError: the study trains code of the user's, which has its own data.
        """
        self.definition.gpt_config("the corpus")
        from service.storage.corpus import load_corpus  # the same

        return load_corpus(self.study, self.settings)

    def shown_end(self) -> str:
        """That nothing is left, for people."""
        if self.definition.spend is not None:
            return f"all that its file lets it spend is spent: {self.shown_budget()}"
        what = "configurations of its design" if self.definition.cells else "trials of its file"
        closed = self.slots.counts()["closed"]
        words = self.definition.words
        return (
            f"the {words.budget} of all {what} have run" if self.budget else f"all {closed} {what} have run"
        )

    def shown_budget(self) -> str:
        """What may be spent in all: `3.000e15 FLOPs, about 40 whole trials of the base configuration`."""
        seen, unit = (self.budget.read() if self.budget else None), unit_of(self.definition.spend)
        granted = seen.granted if seen else 0
        shown = shown_cost(granted, unit, budget=self.definition.words.budget)
        if unit == "seconds":
            return f"{shown}, summed over all workers"
        return f"{shown}, about {granted / self._cost(1):.3g} whole trials of the base configuration"

    def more(self, trials: int) -> None:
        """Have so many further trials finish, as far as a design has them; where trials pause, grant what they cost.

        Raises:
            ConfigError: the budget is in hours.
        """
        if self.budget is not None:
            self.budget.more(self._cost(trials))
        else:
            self.slots.more(trials, limit=len(self.definition.cells) or None)

    def total(self, trials: int | None) -> None:
        """Have so many finish in all, or as the study's file says; where trials pause, grant what they cost.

        Raises:
            ConfigError: it is a number, and the budget is in hours.
        """
        cells, spend = len(self.definition.cells), self.definition.spend
        if self.budget is not None:
            amount = spend.amount if spend and not trials else self._cost(trials or self.definition.trials)
            self.budget.total(amount)
        else:
            self.slots.total(min(trials or cells, cells) if cells else trials or self.definition.trials)

    def _cost(self, trials: int) -> int:
        """Of so many whole trials of the base configuration."""
        refuse_number(self.definition.spend, trials)
        price = self.prices.of_base if self.prices else 1
        return trials * self.base_config.budget_tokens * price

    def other(self, name: str) -> "OpenedStudy":
        """Another study of the same storage. Raises StudyError."""
        study, definition = load_study(self.storage, name, self.settings)
        return replace(self, study=study, definition=definition)

    def close(self) -> None:
        """End the connections to the storage."""
        self.storage.remove_session()
        self.storage.engine.dispose()


def open_study(
    settings: Settings, name: str, *, or_fallback: bool = False, patience: Patience | None = None
) -> OpenedStudy:
    """A study that has been made.

    Args:
        settings: where storage, artifacts and cache are.
        name: its name in the storage.
        or_fallback: without one of this name, the one that was made in its place without a connection to the hub.
        patience: how the storage is waited for, now and later.

    Raises:
        StorageError: the storage cannot be opened.
        StudyError: there is no such study, or it is not this project's.
    """
    storage = open_storage(settings) if patience is None else open_patiently(settings, patience)
    try:
        name = made_as(storage, name) if or_fallback else name
        study, definition = load_study(storage, name, settings)
    except BaseException:
        storage.engine.dispose()
        raise
    return OpenedStudy(settings, storage, study, definition)
