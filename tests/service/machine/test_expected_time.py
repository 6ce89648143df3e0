import dataclasses

import pytest

from model.errors import UserError
from service.machine import expected_time
from service.machine.estimate import measure_study
from service.storage.opened_study import open_study

SEARCHED = "baseline: false\nspace: {training.batch_size: {type: categorical, choices: [4, 8]}}\n"
OF_BASE = {"training.batch_size": None, "model.block_size": 64, "evaluation.block_size": 64}
"""A batch as large as the base file's, 64, which the corpus does not fill."""


@pytest.fixture
def said(tiny, monkeypatch):
    """What `told` says of the tiny study, after what it returns."""

    def measured(study, threads):
        return dataclasses.asdict(measure_study(tiny.settings, study, threads=threads, seconds=0.01))

    monkeypatch.setattr(expected_time, "_measured", measured)

    def call():
        lines = []
        opened = open_study(tiny.settings, "tiny")
        seconds = expected_time.told(opened, to_run=6, workers=2, threads=1, say=lines.append)
        return [seconds, *lines]

    return call


def test_the_time_of_a_trial_and_of_all_is_told(tiny, said, monkeypatch):
    tiny.create(6)
    taken = {"train_seconds": 29.0, "evaluation_seconds": 1.0}
    half_a_minute = {**taken, "tokens_per_second": 1234.5, "device": "CPU"}
    monkeypatch.setattr(expected_time, "_measured", lambda study, threads: half_a_minute)
    seconds, _, line = said()
    assert seconds == 30.0
    assert line == (
        "a whole trial of the base configuration takes about 30 s here (CPU, 1,234 tokens/s); 6 trials "
        "with 2 workers at most about 1 min 30 s, if none is pruned and none is larger"
    )


def test_a_base_configuration_that_is_no_trial_need_not_fit_the_corpus(tiny, said):
    tiny.write(SEARCHED, **OF_BASE)
    tiny.create(2)
    seconds, *lines = said()
    assert seconds is None
    assert lines[-1].startswith("no estimate of the time: the ")
    assert lines[-1].endswith("(in the base configuration, which is no trial of this study)")


def test_one_that_is_the_first_trial_has_to_be_trained(tiny, said, monkeypatch):
    tiny.create(2)

    def fails(study, threads):
        raise UserError("no memory")

    monkeypatch.setattr(expected_time, "_measured", fails)
    with pytest.raises(UserError, match="no memory"):
        said()
