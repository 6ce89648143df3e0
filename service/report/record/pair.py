"""Two studies, or two arms or trials, side by side: what is the same, what differs, whether losses can be compared."""

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from model.errors import ConfigError, UserError
from service.report.record import noise, study_record
from service.report.record.noise import Noise
from service.report.record.study_record import Arm, StudyRecord
from service.storage.artifact_stores import Store
from service.storage.configurations import configuration_of
from service.storage.opened_study import OpenedStudy
from service.study.definition import StudyDefinition
from service.study.design import shown_value
from service.study.parameters import same
from service.study.run_config import RunConfig
from service.study.samplers import shown_sampler
from service.study.search_space import leaves
from service.text.numbers import NONE
from service.text.quantities import shown_number
from service.text.words import Words

Row = tuple[str, str, str]
"""A thing, and what it is on either side."""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two."""

    record: StudyRecord
    arm: Arm | None
    """The one that was named, or else the best; None where no trial is complete."""
    named: bool
    config: RunConfig | None
    """Of the arm's first complete run; None where it is not known."""
    noise: Noise | None
    """Of a search that has been confirmed."""
    label: str
    """Of the study, or of the arm that was named."""

    @property
    def losses(self) -> dict[int, float]:
        """Of the arm's complete runs, by seed."""
        return self.arm.values("val_loss") if self.arm else {}

    @property
    def shown(self) -> Arm | None:
        """The arm, called as people tell it from the other one."""
        if self.arm is None or self.named:
            return self.arm and replace(self.arm, name=self.label)
        return replace(self.arm, name=_within(self.record, self.arm))

    @property
    def shown_name(self) -> str:
        """Of `shown`."""
        return self.shown.name if self.shown else self.label


@dataclass(frozen=True)
class Pair:
    """The two, in the order in which they were named."""

    first: Side
    second: Side

    @property
    def one_study(self) -> bool:
        """Both are of the same one."""
        return self.first.record.name == self.second.record.name

    @property
    def words(self) -> Words:
        """What the objective and the budget are called, of the first where the two differ."""
        return self.first.record.words

    @property
    def apart(self) -> str | None:
        """Why their losses cannot be compared; None where they can."""
        one, other = (side.record for side in (self.first, self.second))
        if one.own_code != other.own_code or one.words != other.words:
            names = [
                f"{record.words.metric} after {record.words.budget} of {record.name}"
                for record in (one, other)
            ]
            return f"they do not measure the same ({' and '.join(names)})"
        if one.own_code:
            same_code = one.corpus["fingerprint"] == other.corpus["fingerprint"]
            return None if same_code else "the files of their training code are not the same"
        if one.corpus["fingerprint"] != other.corpus["fingerprint"]:
            titles = [f"{record.corpus['documents'][1]:,} of {record.name}" for record in (one, other)]
            return (
                "their corpora are not the same, so that neither are the validation titles "
                f"({' and '.join(titles)})"
            )
        evaluated = [record.definition.gpt_config("evaluation").evaluation for record in (one, other)]
        if evaluated[0] != evaluated[1]:
            return "they are evaluated differently (evaluation.block_size, evaluation.batch_size)"
        return None

    def as_one_study(self) -> StudyRecord:
        """The two as arms of one study, the first one the baseline; of a design, if one is, for its intervals."""
        sides = (self.first, self.second)
        arms = tuple(side.shown for side in sides if side.shown)
        of = next((side.record for side in sides if not side.record.tuned), self.first.record)
        return replace(of, arms=arms, baseline=self.first.shown_name)


def split(given: str) -> tuple[str, str | None]:
    """`NAME` or `NAME:ARM`: the study's name, which has no colon, and the arm, if one is named."""
    name, colon, arm = given.partition(":")
    return name, arm.strip() if colon else None


def read(opened: OpenedStudy, given: tuple[str, str], *, files: bool) -> Pair:
    """The pair.

    Args:
        opened: the first one's study.
        given: both, as `split` takes them.
        files: read the curves, too; without them each run has its losses by rung and its last figures.

    Raises:
        StudyError: a study is not there.
        UserError: there is no such arm, or both are the same.
    """
    if given[0] == given[1]:
        raise UserError(f"compare: given {given[0]} twice, allowed: two studies, or two arms as STUDY:ARM")
    (_, one), (name, other) = map(split, given)
    second = opened if name == opened.name else opened.other(name)
    store = opened.store if files else None
    alone = second is opened and None not in (one, other)
    return Pair(_side(opened, one, store, alone=alone), _side(second, other, store, alone=alone))


def _side(opened: OpenedStudy, named: str | None, store: Store | None, *, alone: bool) -> Side:
    record = study_record.read(opened.study, opened.definition, store)
    arm = next(iter(record.best_arms), None) if named is None else _arm(record, named)
    label = record.name
    if named is not None and arm is not None:
        label = _label(record, arm) if alone else _within(record, arm)
    config = None
    if arm and arm.complete:
        trial = opened.study.get_trials(deepcopy=False)[arm.complete[0].trial]
        with contextlib.suppress(ConfigError):  # an added one that could not be trained here
            config = configuration_of(opened.study, opened.definition, trial)
    return Side(
        record=record,
        arm=arm,
        named=named is not None,
        config=config,
        noise=noise.of_study(opened.study, opened.settings) if record.tuned else None,
        label=label,
    )


def _label(record: StudyRecord, arm: Arm) -> str:
    """`trial 7` of a search, whose arms are called by what they changed; of a design the arm's name."""
    return f"trial {arm.runs[0].trial}" if record.tuned else arm.name


def _within(record: StudyRecord, arm: Arm) -> str:
    """`trial 7 of hn`, `ladder: baseline`."""
    label = _label(record, arm)
    return f"{label} of {record.name}" if record.tuned else f"{record.name}: {label}"


def _arm(record: StudyRecord, named: str) -> Arm:
    """The arm of that name; of a search the trial of that number, `7` or `trial 7`."""
    known = {_label(record, arm): arm for arm in record.arms}
    found = known.get(named) or (known.get(f"trial {named}") if record.tuned else None)
    if found is not None:
        return found
    near = difflib.get_close_matches(named, known, n=3) or list(known)[:5]
    what = "trial" if record.tuned else "arm"
    there = f"allowed: {', '.join(near)}" if near else f"it has no {what} yet"
    raise UserError(f"study {record.name!r}: has no {what} {named!r}, {there}")


def data_and_settings(pair: Pair) -> tuple[Row, ...]:
    """What differs in what all trials share, and in what is searched."""
    return _differing(*(dict(_shared(side.record)) for side in (pair.first, pair.second)))


def _shared(record: StudyRecord) -> Iterator[tuple[str, str]]:
    corpus, definition = record.corpus, record.definition
    source = f"{corpus['source']} ({corpus['fingerprint'][:12]})"
    if record.own_code:
        yield "trains", source
        yield "minimises", record.words.metric
    else:
        train, validation, held_out = corpus["documents"]
        yield "corpus", source
        yield "documents", f"{train:,} train, {validation:,} validation, {held_out:,} held-out"
    yield "budget of a trial", f"{record.budget_tokens:,} {record.words.budget}"
    yield "kind", "search" if record.tuned else f"design of {len(set(definition.arms))} arms"
    yield "sampler", shown_sampler(definition.sampler) if record.tuned else "none, a design"
    yield "pruner", definition.pruner.name
    yield from _keys(definition)
    yield "seeds", ", ".join(map(str, record.seeds)) or "none yet"
    yield "trials", record.shown_states or "none yet"
    yield "trained on", "; ".join(record.devices) or NONE


def _keys(definition: StudyDefinition) -> Iterator[tuple[str, str]]:
    """Each key of the configuration: fixed at a value, or what it may be."""
    for key, value in leaves(definition.base_config.model_dump(mode="json")):
        parameter = definition.space.parameters.get(key)
        if parameter is None:
            yield key, shown_value(value)
        else:
            varied = parameter.allowed + (", log" if getattr(parameter, "log", False) else "")
            yield key, f"{varied}; baseline {shown_value(value)}"


def configurations(pair: Pair) -> tuple[Row, ...]:
    """The settings in which the two configurations differ; what has no effect in one of them is `NONE` there."""
    one, other = pair.first.config, pair.second.config
    if one is None or other is None:
        return ()
    there = dict(leaves(other.model_dump(mode="json")))
    not_here, idle = (
        side.record.definition.base.kind.without_effect(config)
        for side, config in ((pair.first, one), (pair.second, other))
    )
    return tuple(
        (key, NONE if key in not_here else _shown(value), NONE if key in idle else _shown(there[key]))
        for key, value in leaves(one.model_dump(mode="json"))
        if key in there
        and not same(value, there[key])
        and key != "seed"
        and not (key in idle and key in not_here)
    )


def _shown(value: Any) -> str:
    return shown_number(value) if isinstance(value, float) else shown_value(value)


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[Row, ...]:
    keys = dict.fromkeys([*one, *other])
    return tuple(
        (key, one.get(key, NONE), other.get(key, NONE)) for key in keys if one.get(key) != other.get(key)
    )
