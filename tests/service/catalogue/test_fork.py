import shutil

import pytest

from service.catalogue.commands import _as_given
from service.catalogue.intake import IMPORTED
from service.settings import HOME
from service.storage.earlier_trials import RECORDED
from service.storage.ownership import own_trials
from tests.conftest import SPACE
from tests.service.catalogue.asking import fill, invoke, opened, plain_study

pytestmark = pytest.mark.slow  # a study is made in each

TWO = """\
space:
  optimizer.lr: {type: float, low: 1.0e-3, high: 5.0e-2, log: true}
  training.batch_size: {type: categorical, choices: [8, 16]}
sampler: {name: random}
"""
RUNS = (({"optimizer.lr": 0.001}, 2.0), ({"optimizer.lr": 0.0002}, 1.5), ({"optimizer.lr": 0.002}, None))


def test_trials_that_the_new_space_would_train_alike_are_taken_along(anywhere):
    anywhere.create(3)
    fill(anywhere, *RUNS)
    anywhere.write(
        TWO, **{"training.batch_size": None}
    )  # another range, and batch sizes, one of which they all have
    done = invoke(anywhere, "fork", "tiny", "--name", "wider", "--trials", 4)
    assert done.exit_code == 0, done.output
    said = done.stdout.splitlines()
    assert "left behind: 1 trial, optimizer.lr outside the new range" in said
    assert "forked: study wider begins with 2 trials of tiny" in said
    assert said[-1].startswith("go on: ./hptune.sh --study ")
    with opened(anywhere, "wider") as (_, study, _):
        found = [(trial.params, trial.value, trial.state.name) for trial in study.trials]
        assert found == [
            ({"optimizer.lr": 0.001, "training.batch_size": 8}, 2.0, "COMPLETE"),
            ({"optimizer.lr": 0.002, "training.batch_size": 8}, None, "PRUNED"),
        ]
        assert study.trials[1].intermediate_values == {3000: 3.0, 6000: 2.5}
        assert study.trials[1].user_attrs[IMPORTED] == {"from": "study tiny", "number": 2}
        assert own_trials(study) == []
    assert "0 of 4 slots closed, 4 left" in invoke(anywhere, "show", "wider").stdout
    assert len(anywhere.trials()) == 3


def test_a_fork_whose_file_leaves_the_search_open_gets_what_a_new_study_does(anywhere):
    anywhere.create(1)
    anywhere.write(SPACE[: SPACE.index("sampler")])
    done = invoke(anywhere, "fork", "tiny", "--name", "wider", "--trials", 2)
    assert done.exit_code == 0, done.output
    with opened(anywhere, "wider") as (_, _, definition):
        assert definition.sampler.prior == RECORDED


def test_a_study_file_is_named_as_people_name_it():
    assert _as_given(HOME / "studies" / "hn" / "study.yaml") == "hn"
    assert _as_given(HOME / "studies" / "hn" / "other.yaml") == "studies/hn/other.yaml"


@pytest.mark.parametrize(
    ("fixed", "reason"),
    [
        ({"training.tokens": 12_000}, "another value in training"),
        ({"model.d_model": 32}, "another value in model"),
        ({"tokenizer.vocab_size": 280}, "another value in tokenizer"),
    ],
)
def test_what_would_be_trained_otherwise_stays_behind(tiny, fixed, reason):
    tiny.create(3)
    fill(tiny, *RUNS)
    tiny.write(SPACE, **fixed)
    said = invoke(tiny, "fork", "tiny", "--name", "changed").stdout.splitlines()
    assert f"left behind: 3 trials, {reason}" in said
    assert "forked: study changed begins with 0 trials of tiny" in said


@pytest.mark.slow
def test_a_fork_is_gone_on_with_and_its_search_sees_what_was_taken(tiny):
    tiny.create(2)
    tiny.worker().work()
    moved = tiny.folder / "moved" / "tiny"
    shutil.copytree(tiny.file.parent, moved)
    done = invoke(tiny, "fork", "tiny", "--name", "again", "--file", moved, "--trials", 2)
    assert "forked: study again begins with 2 trials of tiny" in done.stdout, done.output
    tiny.create(2, name="again")
    from service.trials.worker import Worker

    worker = tiny.worker()
    Worker(
        tiny.settings, "again", owner="w", threads=1, parent=None, drops=lambda *_: False, log=worker.log
    ).work()
    with opened(tiny, "again") as (_, study, _):
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    invoke(tiny, "delete", "again", "--yes")
    best = min(tiny.trials(), key=lambda trial: trial.value)
    assert invoke(tiny, "generate", "tiny").exit_code == 0, best  # its weights are still there


CASES_WHAT_CANNOT_ = [
    (
        SPACE,
        {"data.num_documents": 500},
        "new",
        "study 'new': data is another than in 'tiny', so",
    ),
    (SPACE, {"evaluation.batch_size": 8}, "new", "study 'new': evaluation is another than in 'tiny'"),
    (SPACE, {}, "tiny", "study 'tiny' is there already; --name gives the fork another name"),
    (SPACE, {}, "foreign", "study 'foreign' was made by Optuna itself"),
    (SPACE, {}, "../x", "study '../x': a name has letters"),
    (
        "design:\n  list: [{arm: A}]\nbaseline: false\n",
        {},
        "new",
        "study 'new' runs every configuration of its",
    ),
]


def test_what_cannot_be_forked_is_told_in_one_line(tiny):
    tiny.create(1)
    plain_study(tiny, "foreign", (0.002, 2.5))
    for body, fixed, name, says in CASES_WHAT_CANNOT_:
        tiny.write(body, **fixed)
        done = invoke(tiny, "fork", "tiny", "--name", name)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"error: {says}"), done.stderr
        assert done.stderr.count("\n") == 1
        for study, told in (
            ("nosuch", "study 'nosuch' is not in "),
            ("foreign", "study 'foreign' was made by Optuna"),
        ):
            assert invoke(tiny, "fork", study, "--name", "new").stderr.startswith(f"error: {told}")
