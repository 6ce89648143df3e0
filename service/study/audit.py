"""The audit of pruning: a drawn share of the trials that the pruner stops run to the end all the same.

Their final losses say how often the pruner is wrong (`service.report.pruning.quality`). A trial is marked at the
pruner's first verdict and not asked about again. It ends as a complete one: it may win, the sampler learns its final
loss, and the pruner compares later trials with it. Being worse than the others for the most part, such trials make a
median pruner milder: where they are 5 % of the complete trials, it prunes what is worse than 52.6 % of the others.
"""

import numpy as np
from pydantic import Field

from model.config.section import Section

MARK = "audit"
"""Trial attribute: the pruner's first verdict that was not carried out, with `rung` (from 1) of `rungs`, `tokens` and
`val_loss` there. Handed on to the trial that resumes it."""


class AuditedSection(Section):
    """What every pruner's section has."""

    # left out of a dump where it is 0, so that studies made before there were audits can be resumed
    audit: float = Field(0.0, ge=0, le=1, exclude_if=lambda share: share == 0)
    """Share of the trials it stops that run to the end all the same."""


def is_drawn(share: float, *, study_seed: int, slot: int) -> bool:
    """Whether the trial of a slot runs on when the pruner stops it.

    A trial that resumes an interrupted one has another number and the same slot, so that every worker draws the
    same for it.

    Args:
        share: of the trials, from 0 to 1. Who is drawn at a small share is drawn at a larger one, too.
        study_seed: the study's.
        slot: from 0.
    """
    # the tag keeps the draws apart from the workers' seeds, which come from the same study seed
    sequence = np.random.SeedSequence(study_seed, spawn_key=(*b"audit", slot))
    return float(sequence.generate_state(1, np.uint32)[0]) / 2**32 < share
