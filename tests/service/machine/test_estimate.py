import pytest

from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from model.hardware import device
from service.machine import estimate
from service.machine.estimate import TrialTime, measure
from tests.conftest import sentences
from tests.tiny_gpt import tiny_config

CPU = device.choose("cpu", threads=1)


class Clock:
    """A second passes whenever it is looked at."""

    now = 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    texts = sentences(0)
    corpus = Corpus(tuple(texts[:200]), tuple(texts[200:230]), tuple(texts[230:240]), "t", "file", 0)
    return TokenizedCorpus.prepare(corpus, tiny_config().tokenizer, cache=tmp_path_factory.mktemp("cache"))


def config(**training):
    base = tiny_config().model_dump()
    given = {"epochs": None, "tokens": 12 * 8 * 20, "rungs": 4, "batch_size": 8, **training}
    return type(tiny_config()).model_validate(base | {"training": base["training"] | given})


def test_seconds_are_those_of_all_steps_and_of_an_evaluation_at_each_rung(data, monkeypatch):
    monkeypatch.setattr(estimate, "time", Clock())
    found = measure(config(), data, device=CPU, seconds=0.01)
    assert found.evaluation_seconds == 4.0  # one second by the clock, at four rungs
    # by the run's own clock, which goes on: 20 steps of 96 tokens
    assert found.tokens_per_second == pytest.approx(20 * 96 / found.train_seconds)
    assert found.seconds == found.train_seconds + 4.0 > 4.0
    assert found.device == CPU.description


def test_a_run_shorter_than_its_measurement_is_measured_to_its_end(data):
    found = measure(config(tokens=12 * 8 * 3), data, device=CPU, seconds=3600)
    assert isinstance(found, TrialTime)
    assert found.train_seconds > 0
