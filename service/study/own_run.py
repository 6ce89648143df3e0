"""A study of training code of the user's: its sections of `study.yaml`, and how its configurations are read.

What the base file may hold is the class's to say: a pydantic model as its attribute `Config`, or else whatever the file
has, each value of the kind that stands there. Whoever only reads a study takes its configurations as they were stored,
and needs neither the class nor its libraries.
"""

import dataclasses
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
from pydantic import Field

from model.config.data import LARGEST_SEED
from model.config.section import Section, validate
from model.config.train_config import evenly_spaced
from model.config.yaml_tree import Document
from model.errors import ConfigError
from service.study.own_code import OwnCodeError, failing, load_class, source_hash
from service.study.run_config import RunConfig
from service.study.search_space import leaves


class BudgetConfig(Section):
    """How long a trial of the user's own training code trains."""

    amount: int = Field(ge=1)
    """The whole budget, in units of the class's own."""
    unit: str = Field("steps", pattern=r"^[^\W_][\w /-]{0,29}$")
    """What pages call a number of them."""
    rungs: int = Field(8, ge=1, le=10_000)
    """Evaluations, evenly spaced over the budget; a trial may be pruned at each."""


@dataclass(frozen=True)
class OwnConfig:
    """The configuration of a run of the user's, as `service.study.run_config.RunConfig` says."""

    tree: dict[str, Any]
    """As a file could hold it, defaults included."""
    budget_tokens: int
    rung_count: int

    @property
    def seed(self) -> int:
        """Its key of that name."""
        return int(self.tree["seed"])

    @property
    def rungs(self) -> tuple[int, ...]:
        """The budgets of its evaluations, rising, the last being the whole."""
        return evenly_spaced(self.budget_tokens, self.rung_count)

    def with_tokens(self, tokens: int) -> Self:
        """The same run with another budget, in its own units."""
        return dataclasses.replace(self, budget_tokens=tokens)

    def with_seed(self, seed: int) -> Self:
        """The same run at another seed."""
        return dataclasses.replace(self, tree={**self.tree, "seed": seed})

    def model_dump(self, *, mode: Literal["json"]) -> dict[str, Any]:  # noqa: ARG002 - as pydantic has it
        """As a file could hold it."""
        return self.tree

    def model_dump_json(self) -> str:
        """The same text for every configuration that is equal, where 1 is 1.0."""
        flat = {key: _plain(value) for key, value in leaves(self.tree)}
        return json.dumps([flat, self.budget_tokens, self.rung_count], sort_keys=True)


@dataclass(frozen=True)
class OwnRunKind:
    """Training code of the user's, as `service.study.run_config.Kind` says."""

    run: str
    """`package.module:Class`."""
    budget: BudgetConfig
    metric: str
    """What the objective is called."""
    like: Document | None = None
    """The base file, where a class without a `Config` allows what stands in it; None where nothing is checked."""
    schema: type[pydantic.BaseModel] | None = None
    """Its `Config`; None where it has none, or where the class has not been imported."""
    fingerprint: str = ""
    """Of the file that has the class; empty where it has not been imported."""

    def read(self, document: Document) -> OwnConfig:
        """The configuration in a file. Raises ConfigError, and OwnCodeError where the class's own checks fail."""
        tree = document.tree
        if self.schema is not None:
            with failing(f"{document.name}: {self.run}.Config"):
                built = validate(document, self.schema)
                tree = built.model_dump(mode="json")
            known = dict(leaves(tree))
            for key, _ in leaves(document.tree):
                if not any(name == key or f"{key}.".startswith(f"{name}.") for name in known):
                    place = document.place(tuple(key.split(".")))
                    raise ConfigError(f"{place}: {key}: unknown key, allowed: {', '.join(known)}")
        elif self.like is not None:
            _check_kinds(document, self.like)
        seed = tree.get("seed")
        if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
            given = "missing key" if seed is None else f"given {json.dumps(seed)}"
            raise ConfigError(
                f"{document.place(('seed',))}: seed: {given}, must be a whole number from 0: a study sets it for each "
                "repetition"
            )
        return self.recorded(Document(document.name, tree))

    def recorded(self, document: Document) -> OwnConfig:
        """The configuration as it was stored."""
        return OwnConfig(document.tree, self.budget.amount, self.budget.rungs)

    def flops_per_token(self, config: RunConfig) -> None:
        """Nothing is known of that."""

    def without_effect(self, config: RunConfig) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing is known of that."""
        return ()

    def is_common(self, key: str, *, own_budgets: bool) -> bool:  # noqa: ARG002
        """Whatever the file has, a trial may change: the budget is not among it."""
        return False


def imported(
    kind: OwnRunKind, folders: Sequence[Path], base: Document | None = None
) -> tuple[type[Any], OwnRunKind]:
    """The class of a kind, and the kind with what it allows in a file such as `base`. Raises OwnCodeError."""
    cls = load_class(kind.run, folders)
    missing = [name for name in _CALLS if not callable(getattr(cls, name, None))]
    if missing:
        raise OwnCodeError(
            f"run: {kind.run}: the class has no {' and no '.join(missing)}, must have __iter__, save, restore and stop"
        )
    _check_calls(kind.run, cls)
    schema = getattr(cls, "Config", None)
    if schema is not None and not (isinstance(schema, type) and issubclass(schema, pydantic.BaseModel)):
        raise OwnCodeError(f"run: {kind.run}: Config must be a pydantic model, where a class has one")
    like = base if schema is None else None
    return cls, dataclasses.replace(kind, schema=schema, like=like, fingerprint=source_hash(cls))


_CALLS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "__init__": (("config",), ("rungs", "device")),
    "__iter__": ((), ()),
    "save": (("folder",), ()),
    "restore": (("folder",), ()),
    "stop": ((), ()),
}
"""What a class must have, and what each is given: by position, and by name."""


def _check_calls(run: str, cls: type[Any]) -> None:
    """Refuse a class that cannot be called as it will be. Raises OwnCodeError."""
    for name, (given, named) in _CALLS.items():
        method = inspect.getattr_static(cls, name)
        if not inspect.isfunction(method):  # of C, of a decorator: called, it will show itself
            continue
        signature = inspect.signature(method)
        try:
            signature.bind("self", *given, **dict.fromkeys(named))
        except TypeError:
            must = f"({', '.join(('self', *given, *named))})"
            raise OwnCodeError(f"run: {run}: given {name}{signature}, must be {name}{must}") from None


def _check_kinds(document: Document, like: Document) -> None:
    """Refuse a value of another kind than the base file has there; null says nothing of its kind."""
    wanted = dict(leaves(like.tree))
    for key, value in leaves(document.tree):
        of_base = wanted.get(key)
        if value is not None and of_base is not None and _kind(value) != _kind(of_base):
            place = document.place(tuple(key.split(".")))
            raise ConfigError(
                f"{place}: {key}: given {json.dumps(value)}, must be {_kind(of_base)} as in {like.name}"
            )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    return {int: "a number", float: "a number", str: "a text"}.get(type(value), "a list")


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
