"""The schema of `studies/NAME/published.yaml`: what a document says about its own runs.

Published tables and curves by arm, the document's known defects, and its claims, each with a test that the
report makes on the study's own runs.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from model.config.section import Section, validate
from model.config.yaml_tree import read
from service.report.record.metrics import metric

DEFAULT_TOLERANCE = 0.1
"""Share of `about` within which a measured value agrees, where a claim names no tolerance."""


def _known(name: str) -> str:
    metric(name)
    return name


def _directed(name: str) -> str:
    if metric(name).better is None:
        raise ValueError(f"best and worst need a metric of which one direction is better, given {name}")
    return name


Text = Annotated[str, Field(min_length=1)]
MetricName = Annotated[str, AfterValidator(_known)]
DirectedMetric = Annotated[str, AfterValidator(_directed)]
Pair = tuple[Text, Text]


class Defect(Section):
    """Something known to be wrong with the published figures."""

    id: Text
    """Its number in the notes on the documents, such as `D5`."""
    text: Text


class Column(Section):
    """A column of a published table."""

    name: Text
    metric: MetricName | None = None
    """What is measured here to stand beside it; null for a column that is only quoted."""
    unit: str | None = None
    note: str | None = None
    """Where the published definition differs from the metric's."""


class Row(Section):
    """A row of a published table."""

    arm: Text
    label: str | None = None
    """The document's own name of it."""
    values: dict[str, float | None]
    """By column; null, like a column left out, where the document has no number."""
    notes: dict[str, str] = Field(default_factory=dict)
    """By column: why the published value is known to be wrong, or what it really is."""


class PublishedTable(Section):
    """A table of the document, cell by cell."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: Text
    source: Text
    """Document and table."""
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _cells_have_columns(self) -> "PublishedTable":
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError(f"columns must have names of their own, given {', '.join(names)}")
        for row in self.rows:
            for name in (*row.values, *row.notes):
                if name not in names:
                    raise ValueError(f"row {row.arm!r}: no column {name!r}, allowed: {', '.join(names)}")
        return self


class Curve(Section):
    """A published learning curve."""

    arm: Text
    metric: MetricName
    x: Literal["steps", "tokens", "seconds"]
    points: Annotated[tuple[tuple[float, float], ...], Field(min_length=1)]
    note: str | None = None


class Lower(Section):
    """`arm` has a lower `metric` than `than`."""

    kind: Literal["lower"]
    arm: Text
    than: Text
    metric: MetricName


class Ratio(Section):
    """`metric` of the arm `of` ÷ that of the arm `to`."""

    kind: Literal["ratio"]
    of: Text
    to: Text
    metric: MetricName
    about: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    tolerance: float | None = Field(None, gt=0)
    """Of `about`; null is a tenth of it."""

    @model_validator(mode="after")
    def _one_expectation(self) -> "Ratio":
        given = [key for key in ("about", "at_least", "at_most") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"needs one of about, at_least, at_most, given {' and '.join(given) or 'none'}")
        if self.tolerance is not None and self.about is None:
            raise ValueError("tolerance has an effect with about alone")
        return self


class Extreme(Section):
    """`arm` has the best, or the worst, `metric` of all arms or of those `among`."""

    kind: Literal["best", "worst"]
    arm: Text
    metric: DirectedMetric
    among: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None


class Share(Section):
    """The difference of the arms `part` ÷ the difference of the arms `whole`, each first minus second."""

    kind: Literal["share"]
    part: Pair
    whole: Pair
    metric: MetricName
    about: float
    tolerance: float | None = Field(None, gt=0)


class Correlation(Section):
    """Pearson's r of two metrics over all arms, or those `among`."""

    kind: Literal["correlation"]
    x: MetricName
    y: MetricName
    about: float = Field(ge=-1, le=1)
    tolerance: float | None = Field(None, gt=0)
    among: Annotated[tuple[Text, ...], Field(min_length=3)] | None = None


class Between(Section):
    """`metric` of `arm` lies from `low` to `high`."""

    kind: Literal["between"]
    arm: Text
    metric: MetricName
    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> "Between":
        if self.low > self.high:
            raise ValueError(f"low must be at most high, given {self.low} and {self.high}")
        return self


class Unavailable(Section):
    """No run of this study can show it."""

    kind: Literal["unavailable"]
    why: Text


Test = Annotated[
    Lower | Ratio | Extreme | Share | Correlation | Between | Unavailable, Field(discriminator="kind")
]


class Claim(Section):
    """A checkable statement of the document."""

    text: Text
    source: Text
    test: Test


class Published(Section):
    """What a document says about its runs."""

    source: Text
    baseline: Text | None = None
    """The arm that the others are compared with; null is the study's own first one."""
    defects: tuple[Defect, ...] = ()
    tables: tuple[PublishedTable, ...] = ()
    curves: tuple[Curve, ...] = ()
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _ids_differ(self) -> "Published":
        for what in ("defects", "tables"):
            ids = [entry.id for entry in getattr(self, what)]
            twice = next((each for each in ids if ids.count(each) > 1), None)
            if twice:
                raise ValueError(f"{what}: id {twice!r} is given twice")
        return self

    def arms(self) -> tuple[str, ...]:
        """Every arm that is named, in the order of its first mention."""
        named = [self.baseline] if self.baseline else []
        named += [row.arm for table in self.tables for row in table.rows]
        named += [curve.arm for curve in self.curves]
        named += [arm for claim in self.claims for arm in arms_of(claim.test)]
        return tuple(dict.fromkeys(named))


def arms_of(test: Test) -> tuple[str, ...]:
    """The arms that a test names."""
    match test:
        case Lower():
            return test.arm, test.than
        case Ratio():
            return test.of, test.to
        case Extreme():
            return test.arm, *(test.among or ())
        case Share():
            return *test.part, *test.whole
        case Correlation():
            return test.among or ()
        case Between():
            return (test.arm,)
        case Unavailable():
            return ()


def load(path: Path) -> Published:
    """The published figures in the file. Raises ConfigError."""
    return validate(read(path), Published)
