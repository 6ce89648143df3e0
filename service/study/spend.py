"""What a whole study may cost, where its file says that in another unit than whole trials: `spend`."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.section import Section
from model.errors import ConfigError
from service.text.quantities import shown_operations, shown_seconds

Unit = Literal["tokens", "flops", "seconds"]
"""In which the budget of a study whose trials pause is counted."""


class SpendConfig(Section):
    """What all trials of a study may cost together, in place of a number of trials: one of these.

    It takes trials that wait at a rung, those of the sampler `thaw` or the pruner `asha`.
    """

    tokens: int | None = Field(None, ge=1)
    """Training tokens; of code of one's own, units of its budget."""
    flops: float | None = Field(None, gt=0)
    """Operations of training, as reports count them. Code of one's own tells of none."""
    hours: float | None = Field(None, gt=0)
    """Hours of training and evaluation, summed over all workers; of two workers an hour has two. A rung that has begun
    is finished."""

    @model_validator(mode="after")
    def _in_one_unit(self) -> "SpendConfig":
        given = [key for key in ("tokens", "flops", "hours") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"needs one of tokens, flops and hours, given {' and '.join(given) or 'none'}")
        return self

    @property
    def unit(self) -> Unit:
        """In which it is counted."""
        return "tokens" if self.tokens is not None else "flops" if self.flops is not None else "seconds"

    @property
    def amount(self) -> float:
        """In that unit."""
        if self.hours is not None:
            return self.hours * 3600
        # whole numbers as such: they are added up to the last one
        return self.tokens if self.tokens is not None else round(self.flops or 0)


def unit_of(spend: SpendConfig | None) -> Unit:
    """Of a study's budget: whole trials are tokens."""
    return "tokens" if spend is None else spend.unit


def refuse_number(spend: SpendConfig | None, trials: int | None) -> None:
    """Raise ConfigError where a number of trials is asked for and nobody can say what they cost."""
    if trials is not None and unit_of(spend) == "seconds":
        raise ConfigError(
            f"trials: given {trials}, and the study's budget is in hours, in which nobody knows beforehand what a "
            "trial costs; raise spend.hours in its file, and give no number"
        )


def shown_cost(amount: float, unit: Unit, *, budget: str) -> str:
    """An amount for people: `3,000,000 tokens`, `1.200e15 FLOPs`, `2 h 05 min of training`.

    Args:
        amount: in the unit.
        unit: of the study.
        budget: what it calls tokens (`Words.budget`).
    """
    if unit == "flops":
        return f"{shown_operations(amount)} FLOPs"
    return f"{shown_seconds(amount)} of training" if unit == "seconds" else f"{amount:,.0f} {budget}"
