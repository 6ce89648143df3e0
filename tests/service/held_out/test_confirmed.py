"""The confirmed winner and its baseline on held-out titles: a real confirmation, and scores made by hand."""

import json
import re
import uuid
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import structlog
from click.testing import CliRunner

from model.checkpoint import WEIGHTS
from model.config.counts import flops_per_token
from model.hardware import device
from service.__main__ import cli
from service.confirmation import confirm
from service.confirmation.elimination import drops
from service.held_out import best
from service.held_out import confirmed as held_out_confirmed
from service.held_out.advantage import Difference
from service.held_out.confirmed import ArmScore, ConfirmedScores
from service.statistics import estimate
from service.storage.artifact_stores import open_store
from service.storage.artifacts import CHECKPOINT
from service.storage.corpus import load_corpus
from service.storage.database import open_storage
from service.storage.studies import StudyError, load_study
from service.study.design import BASELINE
from service.trials.worker import Worker
from tests.conftest import tiny_study

NAME = "tiny-confirm"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The best two of three trials and the baseline, re-run on two seeds."""
    tiny = tiny_study(tmp_path_factory.mktemp("held-out"))
    tiny.create(3)
    tiny.worker().work()
    confirm.prepare(tiny.settings, "tiny", top=2, seeds=2, say=print)
    log = structlog.get_logger()
    Worker(tiny.settings, NAME, owner=uuid.uuid4().hex, threads=1, parent=None, drops=drops, log=log).work()
    confirm.conclude(tiny.settings, NAME)
    return tiny


def load(tiny, name="tiny"):
    return load_study(open_storage(tiny.settings), name, tiny.settings)[0]


@pytest.fixture
def evaluate(done):
    def run(**changes):
        search, where = load(done), device.choose("cpu", threads=1)
        confirmed = {**search.user_attrs[confirm.CONFIRMED], **changes}
        return held_out_confirmed.evaluate(
            load(done, NAME), confirmed, open_store(done.settings.artifacts),
            load_corpus(search, done.settings), device=where,
        )  # fmt: skip

    return run


def finalist(done):
    return finalists(done)[0]


def finalists(done):
    return list(load(done, NAME).user_attrs["confirms"]["finalists"])


def verb(tiny, *arguments):
    environment = {key: value for key, value in tiny.command()["env"].items() if key.startswith("HPTUNE_")}
    return CliRunner().invoke(cli, ["evaluate", *map(str, arguments)], env=environment)


def test_winner_and_baseline_alone_are_scored_on_every_seed_of_the_confirmation(done, evaluate):
    arm = finalist(done)
    scores = evaluate(arm=arm, ties=[])
    assert [of.arm for of in scores.arms] == [arm, BASELINE]
    confirmation = load(done, NAME)
    one_by_one = best.evaluate(
        confirmation, open_store(done.settings.artifacts), load_corpus(confirmation, done.settings),
        top=6, device=device.choose("cpu", threads=1),
    )  # fmt: skip
    of_trial = {score.trial: score.held_out_loss for score in one_by_one}
    for of in scores.arms:
        trials = [trial for trial in confirmation.get_trials() if trial.user_attrs["arm"] == of.arm]
        assert of.held_out_losses == {t.user_attrs["config"]["seed"]: of_trial[t.number] for t in trials}
        assert of.val_losses == {t.user_attrs["config"]["seed"]: t.value for t in trials}
        assert list(of.held_out_losses) == [1338, 1339]
        assert of.interval[0] < np.mean(list(of.held_out_losses.values())) < of.interval[1]


def test_the_difference_is_paired_by_seed(done, evaluate):
    scores = evaluate(arm=finalist(done), ties=[])
    own, others = scores.winner.held_out_losses, scores.baseline.held_out_losses
    reference = scipy.stats.ttest_rel(list(own.values()), list(others.values())).confidence_interval(0.95)
    found = scores.difference.over_seeds
    assert found.interval == pytest.approx((reference.low, reference.high))
    low, high = scores.difference.over_both
    assert low < found.interval[0] < found.interval[1] < high
    assert scores.difference.picked == dict.fromkeys(
        own, finalist(done)
    )  # of one finalist there is no other to pick


def test_at_each_seed_the_arm_that_the_other_seeds_pick_stands_for_the_winner(done, evaluate):
    one, two = finalists(done)
    losses = {(t.user_attrs["arm"], t.user_attrs["config"]["seed"]): t for t in load(done, NAME).get_trials()}

    def better(seed):
        return min((one, two), key=lambda arm: losses[arm, seed].value)

    expected = {1338: better(1339), 1339: better(1338)}  # the other one of two seeds decides
    alone = {arm: evaluate(arm=arm, ties=[]) for arm in (one, two)}
    own = {seed: alone[arm].winner.held_out_losses[seed] for seed, arm in expected.items()}
    for winner, other in ((one, two), (two, one)):
        scores = evaluate(arm=winner, ties=[other, BASELINE])
        assert scores.difference.picked == expected
        differences = [own[seed] - scores.baseline.held_out_losses[seed] for seed in (1338, 1339)]
        assert scores.difference.over_seeds == estimate(differences, confidence=0.975)  # of two
        stood_in = [seed for seed, arm in expected.items() if arm == other]
        assert [list(of.held_out_losses) for of in scores.stand_ins] == ([stood_in] if stood_in else [])
        assert [of.trials for of in scores.stand_ins] == (
            [tuple(losses[other, seed].number for seed in stood_in)] if stood_in else []
        )


def test_the_operations_are_those_of_one_run(done, evaluate):
    definition = load_study(open_storage(done.settings), "tiny", done.settings)[1]
    tokens = done.trials()[0].user_attrs["tokens"]
    expected = flops_per_token(definition.base_config) * tokens
    assert evaluate().arms[-1].train_flops == expected


def test_a_baseline_that_is_the_best_has_nothing_to_be_compared_with(evaluate):
    scores = evaluate(arm=BASELINE, ties=["trial 1"])
    assert [of.arm for of in scores.arms] == [BASELINE]
    grids = held_out_confirmed.tables(scores).values()
    assert [[row[0] for row in grid.rows] for grid in grids] == [[BASELINE]] * 2  # no table of differences
    said = held_out_confirmed.sentence(scores)
    assert said.startswith(
        "the confirmed best is the baseline itself (tied with trial 1 in the confirmation): there is"
    )


def test_weights_that_are_gone_are_told_in_one_line(done, evaluate, tmp_path):
    with pytest.raises(StudyError, match=r"^study 'tiny-confirm' has no checkpoint of 'trial 7' in "):
        evaluate(arm="trial 7")
    with pytest.raises(StudyError, match=r"no checkpoint of .* in .*HPTUNE_ARTIFACTS"):
        evaluate(seeds=[5])


class Losing:
    """A store that has lost some files."""

    def __init__(self, store, *lost):
        self.store, self.lost = store, lost

    def __str__(self):
        return "the store"

    def has(self, artifact_id):
        return artifact_id not in self.lost and self.store.has(artifact_id)


def test_winner_and_baseline_without_a_seed_in_common_are_refused(done):
    search, confirmation = load(done), load(done, NAME)
    arm, weights = finalist(done), {}
    for trial in confirmation.get_trials():
        seed = trial.user_attrs["config"]["seed"]
        weights[trial.user_attrs["arm"], seed] = trial.user_attrs[CHECKPOINT][WEIGHTS]
    store = Losing(open_store(done.settings.artifacts), weights[arm, 1338], weights[BASELINE, 1339])
    confirmed = {**search.user_attrs[confirm.CONFIRMED], "arm": arm, "ties": []}
    with pytest.raises(
        StudyError, match=rf"^study '{NAME}': {arm} and baseline share no seed with weights in the st"
    ):
        held_out_confirmed.evaluate(
            confirmation,
            confirmed,
            store,
            load_corpus(search, done.settings),
            device=device.choose("cpu"),
        )


def test_the_verb_shows_and_writes_the_verdict(done, tmp_path):
    result = verb(done, "--study", "tiny", "--confirmed", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "…" not in result.output.partition("titles drawn")[0]  # it fits into 80 columns
    record = json.loads((tmp_path / "evaluation-confirmed.json").read_text())
    assert record["verdict"] in result.output
    text = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", (tmp_path / "evaluation-confirmed.md").read_text())
    assert f"**{record['verdict']}**" in text
    assert f"written: {tmp_path / 'evaluation-confirmed.md'}" in result.output
    assert record["confirmation"] == NAME
    read = load(done).user_attrs[best.READS][-1]
    scored = [record["winner"], record["baseline"], *record["stand_ins"]]
    assert read["trials"] == {of["arm"]: of["trials"] for of in scored if of}
    reads = load(done).user_attrs[best.READS]
    assert record["held_out_reads"] == len(reads)
    assert (reads[-1]["confirmation"], sorted(reads[-1]["trials"])) == (
        NAME,
        sorted([finalist(done), BASELINE]),
    )


def test_only_one_confirmed_winner_is_named_by_the_plain_verb(done, finished, tmp_path):
    winner = load(done).user_attrs[confirm.CONFIRMED]["arm"]
    said = verb(done, "--study", "tiny", "--top", 1, "--out", tmp_path).output
    assert (
        f"confirmed winner: {winner}; against the baseline, over seeds: python3 evaluate.py --study tiny"
        in said
    )
    unconfirmed = verb(finished, "--study", "tiny", "--top", 1, "--out", tmp_path).output
    assert (
        "the winner of study tiny is not confirmed, and may be a lucky one: .venv/bin/python -m service confirm tiny"
        in (unconfirmed)
    )
    of_confirmation = verb(done, "--study", NAME, "--top", 1, "--out", tmp_path).output
    assert "not confirmed" not in of_confirmation
    assert "confirmed winner" not in of_confirmation


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--study", "tiny", "--confirmed"),
            "study 'tiny' has no confirmed winner; first: .venv/bin/python -m service confirm tiny",
        ),
        (
            ("--confirmed", "--top", "3"),
            "--top: given 3, has no effect with --confirmed: winner and baseline are scored",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(finished, arguments, says):
    result = verb(finished, *arguments)
    assert (result.exit_code, result.stderr) == (2, f"error: {says}\n")


def test_a_confirmation_has_no_confirmed_winner_of_its_own(done):
    result = verb(done, "--study", NAME, "--confirmed")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: study 'tiny-confirm' is a confirmation itself; give the study that it confirms: tiny\n"
    )


def arm_of(name, losses):
    return ArmScore(
        arm=name, parameters=1000, train_flops=1.5e15, val_losses=losses, held_out_losses=losses,
        interval=(0.9, 1.1), bits_per_byte=2.0, titles=("one",),
    )  # fmt: skip


def scores_of(own, others, over_both, ties=()):
    seeds = [a - b for a, b in zip(own, others, strict=True)]
    picked = dict.fromkeys(range(len(own)), "trial 3")
    difference = Difference(picked, estimate(seeds), over_both, estimate(seeds))
    return ConfirmedScores(
        ties, arm_of("trial 3", dict(enumerate(own))), arm_of(BASELINE, dict(enumerate(others))), difference
    )


AHEAD = ([1.0, 1.1, 1.2], [1.2, 1.31, 1.39])


@pytest.mark.parametrize(
    ("own", "others", "over_both", "says"),
    [
        (
            *AHEAD,
            (-0.3, -0.1),
            "the advantage of trial 3 holds on held-out titles: -0.200 (95 % interval -0.225 to ",
        ),
        (*AHEAD, (-0.4, 0.001), "an advantage of trial 3 is not shown on held-out titles: "),
        (*reversed(AHEAD), (0.1, 0.3), "trial 3 has no advantage on held-out titles: 0.200 "),
        (
            [1.0],
            [1.2],
            None,
            "an advantage of trial 3 is not shown on held-out titles: -0.200 (one seed: no ",
        ),
    ],
)
def test_an_advantage_holds_over_seeds_and_titles_or_not_at_all(own, others, over_both, says):
    assert held_out_confirmed.sentence(scores_of(own, others, over_both)).startswith(says)


def test_a_tie_is_said():
    scores = scores_of(*AHEAD, (-0.3, -0.1), ties=("trial 1", "trial 2"))
    assert "the advantage of trial 3 (tied with trial 1, trial 2 in the confirmation) holds" in (
        held_out_confirmed.sentence(scores)
    )


def test_generated_text_is_escaped_in_markdown(tmp_path):
    scores = scores_of(*AHEAD, (-0.3, -0.1))
    hostile = replace(scores, winner=replace(scores.winner, titles=("<b>x</b>", "# h")))
    facts = {"study": "tiny", "source": "file", "held_out_documents": 2}
    markdown, record = held_out_confirmed.write(hostile, tmp_path / "new", facts)
    text = markdown.read_text()
    assert "- \\<b\\>x" in text
    assert "- \\# h" in text
    assert "| trial 3 | 3 | 1.10 ± 0.10 | 1.10 ± 0.10 | 0.9000–1.1000 |" in text
    assert "| trial 3 | 1,000 | 1.500e15 | 3.0042 | 2.0000 |" in text
    # 1.0 - 1.2, 1.1 - 1.31, 1.2 - 1.39: mean -0.2, sd 0.01, t(0.975; 2) · 0.01/√3 = 0.025
    assert "| held-out | -0.200 ± 0.010 | -0.225 to -0.175 | -0.300 to -0.100 |" in text
    assert json.loads(record.read_text())["holds"] is True
