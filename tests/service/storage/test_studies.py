import dataclasses

import pytest

from service.storage.database import open_storage
from service.storage.schema import GENERATION
from service.storage.studies import (
    CORPUS,
    DEFINITION,
    FALLBACK,
    StudyError,
    corpus_facts,
    create_study,
    find_study,
    load_study,
    made_as,
    refusal,
    refuse_changed,
)
from service.study import definition as study_config
from tests.conftest import tiny_study

FACTS = {
    "fingerprint": "f", "source": "file", "artifact": "a", "train_tokens": 10, "budget_tokens": 5,
    "documents": [3, 2, 1],
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tiny_study(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def storage(home):
    storage = open_storage(home.settings, create=True)
    yield storage
    storage.engine.dispose()


@pytest.fixture(scope="module")
def definition(home):
    return study_config.load(home.file)


@pytest.fixture
def made(storage, definition):
    """Makes a study of this name."""

    def make(name):
        named = dataclasses.replace(definition, name=name)
        return create_study(storage, named, FACTS, command="the command", note="the note")

    return make


def test_a_study_is_found_as_it_was_made(storage, made, home):
    made("whole")
    study, found = load_study(storage, "whole", home.settings)
    assert found.name == "whole"
    assert corpus_facts(study) == FACTS
    assert study.user_attrs["command"] == "the command"
    assert find_study(storage, "nosuch") is None


def test_of_two_that_make_one_study_the_second_is_told(made):
    made("twice")
    with pytest.raises(StudyError, match="has just been made by another process; the same command"):
        made("twice")


def test_generations_are_like_no_other(made):
    generations = {made(f"one{i}").user_attrs[GENERATION] for i in range(3)}
    assert len(generations) == 3


def test_who_asks_for_a_study_that_is_not_there_is_told_which_are(storage, made, home):
    made(f"corpus{FALLBACK}")
    with pytest.raises(StudyError, match=rf"corpus{FALLBACK} was made in its place: give that name"):
        load_study(storage, "corpus", home.settings)
    with pytest.raises(StudyError, match=rf"study 'nosuch' is not in .*; there are: .*corpus{FALLBACK}"):
        load_study(storage, "nosuch", home.settings)
    assert made_as(storage, "corpus") == f"corpus{FALLBACK}"
    assert made_as(storage, f"corpus{FALLBACK}") == f"corpus{FALLBACK}"
    assert made_as(storage, "nosuch") == "nosuch"


@pytest.mark.parametrize(
    ("attributes", "ours"),
    [
        ({}, False),
        ({GENERATION: "g"}, True),
        ({GENERATION: 7}, False),
        ({DEFINITION: {"name": "a", "study": {}, "base": {}}}, True),  # of before studies had a generation
        ({DEFINITION: {"name": "a"}}, False),
        ({DEFINITION: "text"}, False),
    ],
)
def test_what_was_made_by_optuna_itself_is_refused_with_a_way_out(attributes, ours):
    said = refusal("a", attributes)
    assert (said is None) is ours
    assert ours or said.endswith("its trials are untouched; give yours another name: --name a-2")


@pytest.mark.parametrize("key", [*FACTS, CORPUS, DEFINITION])
def test_what_cannot_be_read_is_told_in_one_line(storage, made, key):
    study = made(f"without-{key}")
    if key in FACTS:
        study.set_user_attr(CORPUS, {name: value for name, value in FACTS.items() if name != key})
    else:
        study.set_user_attr(key, {"name": []})
    with pytest.raises(StudyError) as caught:
        find_study(storage, f"without-{key}")
    assert "\n" not in str(caught.value)
    assert f"give yours another name: --name without-{key}-2" in str(caught.value)


def test_a_changed_definition_is_refused_by_its_parts(home, definition):
    refuse_changed(definition, definition)
    other = tiny_study(home.folder)
    other.write(
        "space:\n  optimizer.lr: {type: float, low: 1.0e-4, high: 2.0e-2, log: true}\nsampler: {name: random}\n"
    )
    with pytest.raises(
        StudyError,
        match=r"^study 'tiny' was made with another .*--name tiny-2; .* takes along .* that fit$",
    ):
        refuse_changed(definition, study_config.load(other.file))
