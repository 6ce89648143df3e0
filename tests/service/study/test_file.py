from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config.section import validate
from model.config.yaml_tree import parse
from model.errors import ConfigError, UserError
from service.study.file import StudyConfig, checked_name, from_here, place_of, study_file

SPACE = "space: {optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2}}\n"
DESIGN = "design: {list: [{optimizer.lr: 1.0e-3}]}\n"


def config(text):
    return validate(parse(f"question: Does it work?\n{text}", name="study.yaml"), StudyConfig)


@pytest.mark.parametrize("body", [SPACE, DESIGN])
def test_a_study_is_a_search_or_a_design(body):
    assert config(body).question == "Does it work?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs either space or design, given neither"),
        (SPACE + DESIGN, "needs either space or design, given both"),
        (SPACE + "rebuilds_published: true\n", "rebuilds_published is for a design, given with a space"),
        (DESIGN + "sampler: {name: tpe}\n", "sampler has no effect with a design, given both"),
        (DESIGN + "seed: 1\n", "seed is the sampler's and has no effect with a design or a grid"),
        (SPACE + "sampler: {name: grid}\nseed: 1\n", "seed is the sampler's and has no effect"),
        (DESIGN + "trials: 3\n", "trials has no effect with a design or a grid"),
        (DESIGN + "pruner: {name: asha}\n", "pruner asha begins trials as it goes, and a design or a grid"),
        (SPACE + "sampler: {name: grid}\npruner: {name: asha}\n", "pruner asha begins trials as it goes"),
        (
            SPACE + "sampler: {name: thaw}\npruner: {name: asha}\n",
            "pruner asha does not go with sampler thaw",
        ),
        (
            SPACE + "sampler: {name: thaw}\npruner: {name: median}\n",
            "pruner median does not go with sampler thaw",
        ),
        (DESIGN + "try: [{optimizer.lr: 1.0e-3}]\n", "try has no effect with a design or a grid"),
        (SPACE + "try: [{}]\n", "try"),
        (SPACE + "stop: {gain: 0.002}\nsampler: {name: tpe}\n", "stop needs the sampler thaw"),
        (SPACE + "stop: {gain: 0.002}\npruner: {name: median}\n", "stop needs the sampler thaw"),
        (DESIGN + "stop: {gain: 0.002}\n", "stop needs the sampler thaw"),
        (SPACE + "spend: {hours: 1.0}\ntrials: 9\n", "needs either trials or spend, given both"),
        (SPACE + "spend: {hours: 1.0}\nsampler: {name: tpe}\n", "spend needs trials that wait at a rung"),
        (SPACE + "spend: {tokens: 9}\npruner: {name: median}\n", "spend needs trials that wait at a rung"),
        (DESIGN + "spend: {flops: 1.0e15}\n", "spend needs trials that wait at a rung"),
        (SPACE + "spend: {}\n", "needs one of tokens, flops and hours, given none"),
        (
            SPACE + "run: a:B\nbase: c.yaml\nbudget: {amount: 9}\nspend: {flops: 1.0e15}\n",
            "spend.flops needs the built-in GPT, code of one's own tells of no operations: give tokens",
        ),
        (SPACE + "stop: {gain: 0}\n", "stop.gain"),
        (SPACE + "trials: 0\n", "trials"),
        ("space: {}\n", "space"),
    ],
)
def test_what_would_have_no_effect_is_refused(text, message):
    with pytest.raises(ConfigError) as caught:
        config(text)
    assert message in str(caught.value)


@pytest.fixture
def root(tmp_path):
    for name in ("b", "a"):
        (tmp_path / "studies" / name).mkdir(parents=True)
        (tmp_path / "studies" / name / "study.yaml").touch()
    return tmp_path


def test_a_study_is_named_by_its_folder_or_by_its_file(root):
    file = root / "studies" / "a" / "study.yaml"
    for given_ in ("a", str(file), str(file.parent) + "/"):
        assert study_file(given_, root) == file


@pytest.mark.parametrize("name", ["c", "c/study.yaml"])
def test_a_study_that_is_not_there_is_answered_with_those_that_are(root, name):
    with pytest.raises(UserError, match=rf"^study '{name}' does not exist; there are: a, b$"):
        study_file(name, root)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True))
def test_a_name_that_may_be_a_folders_is_taken(name):
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "a\n", "é", "a" * 101])
def test_another_one_is_refused(name):
    with pytest.raises(UserError, match="a name has letters, digits"):
        checked_name(name)


def test_a_place_is_from_the_root_where_it_is_in_there(root, tmp_path_factory):
    assert place_of(root / "studies" / ".." / "studies" / "a", root) == "studies/a"
    outside = tmp_path_factory.mktemp("outside") / "study.yaml"
    assert place_of(outside, root) == str(outside.resolve())


def test_a_path_is_shown_as_somebody_in_the_current_folder_would_write_it(root, monkeypatch):
    monkeypatch.chdir(root / "studies")
    assert from_here(root / "studies" / "a" / "study.yaml") == Path("a/study.yaml")
    assert from_here(Path("a")) == Path("a")
    assert from_here(root) == root
