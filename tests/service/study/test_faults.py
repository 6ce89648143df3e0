import pytest

from model.config.yaml_tree import parse
from model.errors import ConfigError, notes_of
from service.study.faults import refuse_idle, told_together
from tests.conftest import ROOT

MISTAKES = """\
question: Which is best?
trial: 8
fixed:
  training.tokens: 400000
space:
  optimizer.learning_rate: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
  training.batchsize: {type: categorical, choices: [16, 32]}
  model.dropout: {type: float, low: 0.0, high: 0.2}
"""


def told(text: str, error: str = "study.yaml:2: trial: unknown key", **overrides: object) -> list[str]:
    """What is said of a file in which the reading of its form found an error."""
    with (
        pytest.raises(ConfigError) as caught,
        told_together(parse(text, name="study.yaml"), overrides, ROOT),
    ):
        raise ConfigError(error)
    return [str(caught.value), *notes_of(caught.value)]


def test_faults_that_the_reading_had_not_come_to_are_told_with_the_one_that_stopped_it():
    assert told(MISTAKES) == [
        "study.yaml:2: trial: unknown key",
        "study.yaml:6: optimizer.learning_rate: unknown key, did you mean 'optimizer.lr'?",
        "study.yaml:7: training.batchsize: unknown key, did you mean 'training.batch_size'?",
        "study.yaml:4: training: needs one of epochs, tokens and steps, the others null, given epochs 7.0, "
        "tokens 400000 and steps None",
    ]


def test_what_the_command_line_mends_is_no_fault_and_nothing_is_told_twice():
    tokens = MISTAKES.replace("batchsize", "batch_size").replace("learning_rate", "lr")
    budget = told(tokens)[1]
    assert told(tokens, **{"training.epochs": None}) == told("question: x\n")
    assert told(tokens, budget) == [budget]


@pytest.mark.parametrize(
    "text", ["run: train:Run\nfixed: {seed: x}", "base: 5", "base: none.yaml", "space: 5\nfixed: []"]
)
def test_of_a_file_whose_base_cannot_be_read_there_is_the_one_fault(text):
    assert told(text) == ["study.yaml:2: trial: unknown key"]


def test_all_that_is_without_effect_is_refused_at_once():
    refuse_idle({})
    with pytest.raises(ConfigError) as caught:
        refuse_idle({"optimizer.momentum": "command line", "data.path": "study.yaml:4"})
    assert str(caught.value) == ("command line: optimizer.momentum: has no effect in any trial of this study")
    assert notes_of(caught.value) == (
        "study.yaml:4: data.path: has no effect in any trial of this study; it is read with data.source=file",
    )
