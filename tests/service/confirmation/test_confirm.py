"""The confirmation of a study, by workers in this process; `test_cli` has the verb itself."""

import json
import re
import uuid

import pytest
import structlog
from optuna.trial import TrialState

from model.config.data import LARGEST_SEED
from model.errors import UserError
from service.confirmation import confirm, page
from service.confirmation.elimination import drops
from service.storage import artifacts
from service.storage.artifact_stores import open_store
from service.storage.database import open_storage
from service.storage.ownership import key_of
from service.storage.slots import Slots
from service.storage.studies import load_study
from service.study import definition as study_config
from service.study.design import BASELINE
from service.study.search_space import leaves
from service.trials import gpt
from service.trials.worker import Worker
from tests.conftest import SPACE, tiny_study
from tests.fast_run import FastRun

NAME = "tiny-confirm"


class Confirmation:
    """Of the study in a folder."""

    def __init__(self, tiny):
        self.tiny, self.said = tiny, []

    def prepare(self, *, seeds=2, top=None, name=None):
        return confirm.prepare(
            self.tiny.settings, "tiny", top=top, seeds=seeds, name=name, say=self.said.append
        )[1]

    def worker(self):
        log = structlog.get_logger()
        return Worker(
            self.tiny.settings, NAME, owner=uuid.uuid4().hex, threads=1, parent=None, drops=drops, log=log
        )

    def load(self, name=NAME):
        storage = open_storage(self.tiny.settings)
        try:
            return load_study(storage, name, self.tiny.settings)[0]
        finally:
            storage.engine.dispose()

    def complete(self):
        """Arm and seed of every complete run, in the order of the trials."""
        trials = self.load().get_trials(states=(TrialState.COMPLETE,))
        return [(trial.user_attrs["arm"], trial.user_attrs["config"]["seed"]) for trial in trials]

    def slots(self):
        storage = open_storage(self.tiny.settings)
        study = load_study(storage, NAME, self.tiny.settings)[0]
        counts = Slots(storage.engine, key_of(study)).counts()
        storage.engine.dispose()
        return counts


def searched(folder, trials, body=SPACE):
    tiny = tiny_study(folder)
    tiny.write(body)
    tiny.create(trials)
    tiny.worker().work()
    return tiny


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two of four trials confirmed on two seeds by real training."""
    confirmation = Confirmation(searched(tmp_path_factory.mktemp("confirm"), 4))
    confirmation.definition = confirmation.prepare(top=2)
    confirmation.worker().work()
    confirmation.verdict, confirmation.confirms = confirm.conclude(confirmation.tiny.settings, NAME)
    return confirmation


@pytest.fixture
def fast(tmp_path, monkeypatch):
    """A search whose losses depend on the learning rate alone: whatever is worse is so on every seed."""
    monkeypatch.setattr(gpt, "GptRun", FastRun)
    return Confirmation(searched(tmp_path, 5))


def finalists(done):
    ranked = sorted(done.tiny.trials(), key=lambda trial: trial.value)
    return [trial for trial in ranked if trial.number != 0][:2]  # trial 0 is the baseline


def test_the_best_and_the_baseline_run_on_the_same_fresh_seeds_with_the_seeds_outermost(done):
    arms = [BASELINE, *(f"trial {trial.number}" for trial in finalists(done))]
    assert done.complete() == [(arm, seed) for seed in (1338, 1339) for arm in arms]


def test_a_finalist_is_trained_as_the_search_trained_it_but_for_its_seed(done):
    of_search = {f"trial {trial.number}": trial for trial in finalists(done)}
    of_search[BASELINE] = done.tiny.trials()[0]
    for trial in done.load().get_trials():
        config = dict(leaves(trial.user_attrs["config"])) | {"seed": 1337}
        assert config == dict(leaves(of_search[trial.user_attrs["arm"]].user_attrs["config"]))


def test_the_corpus_is_the_studys_own(done):
    assert done.load().user_attrs["corpus"] == done.load("tiny").user_attrs["corpus"]


def test_the_weights_of_every_run_are_kept(done):
    store = open_store(done.tiny.settings.artifacts)
    assert all(artifacts.has_weights(store, trial) for trial in done.load().get_trials())


def test_the_winner_is_recorded_in_the_search(done):
    best = done.verdict.best
    found = done.load("tiny").user_attrs[confirm.CONFIRMED]
    losses = {}
    for trial in done.load().get_trials():
        losses.setdefault(trial.user_attrs["arm"], []).append(trial.value)
    assert found["arm"] == best.arm == min(losses, key=lambda arm: sum(losses[arm]))
    assert found["study"] == NAME
    assert found["seeds"] == [1338, 1339]
    assert found["trial"] == (None if best.arm == BASELINE else int(best.arm.removeprefix("trial ")))


def test_the_search_losses_are_those_of_the_finalists_trials(done):
    found = {s.arm: s.search_loss for s in done.verdict.standings if s.search_loss is not None}
    assert found == {f"trial {trial.number}": trial.value for trial in finalists(done)}


def test_the_verdict_is_written_as_markdown_and_strict_json(done, tmp_path):
    markdown, content = page.write(done.verdict, done.definition, done.confirms, tmp_path / "new")
    found = json.loads(content.read_text(), parse_constant=pytest.fail)
    assert found["best"] == done.verdict.best.arm
    assert found["seeds"] == [1338, 1339]
    assert found["configurations"][BASELINE] == "the base file as it is"
    rate = finalists(done)[0].params["optimizer.lr"]
    assert found["configurations"][f"trial {finalists(done)[0].number}"] == f"lr {rate}"
    text = markdown.read_text()
    assert text.count("| baseline |") == 2  # it has no winner's curse
    shown = [float(number) for number in re.findall(r"\d+\.\d+", text)]
    assert any(number == pytest.approx(done.verdict.standings[0].rerun.mean, abs=5e-4) for number in shown)


def test_a_folder_that_cannot_be_made_is_told_in_one_line(done, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*: cannot be written"):
        page.write(done.verdict, done.definition, done.confirms, tmp_path / "file" / "new")


def test_losers_are_dropped_after_three_seeds_and_their_slots_closed_without_a_run(fast):
    fast.prepare(seeds=5)
    fast.worker().work()
    verdict, _ = confirm.conclude(fast.tiny.settings, NAME)
    runs = fast.complete()
    arms = {arm for arm, _ in runs}
    for arm in arms:
        stays = arm in (verdict.best.arm, BASELINE)
        assert [seed for a, seed in runs if a == arm] == list(range(1338, 1343 if stays else 1341))
    assert len(arms) == 5
    assert fast.slots() == {"open": 0, "leased": 0, "held": 0, "closed": 25}
    out = [s.out for s in verdict.standings if s.arm not in (verdict.best.arm, BASELINE)]
    assert all(why.endswith("after 3 seeds") for why in out)


@pytest.mark.slow
def test_a_confirmation_cut_off_goes_on_and_runs_nothing_twice(fast, monkeypatch):
    fast.prepare(top=2)
    worker = fast.worker()
    made = []

    class Interrupted(FastRun):
        def __init__(self, *arguments, **others):
            super().__init__(*arguments, **others)
            made.append(self)
            if len(made) == 3:
                worker.stop()

    monkeypatch.setattr(gpt, "GptRun", Interrupted)
    worker.work()
    assert len(fast.complete()) == 2
    definition = fast.prepare()
    fast.worker().work()
    arms = set(definition.arms)
    assert sorted(fast.complete()) == sorted((arm, seed) for arm in arms for seed in (1338, 1339))


def test_a_second_call_adds_seeds_behind_those_there_are(fast):
    fast.prepare(top=2)
    fast.worker().work()
    before = fast.complete()
    fast.prepare(seeds=3)
    fast.worker().work()
    assert fast.complete()[: len(before)] == before
    assert [seed for _, seed in fast.complete()[len(before) :]] == [1340] * 3
    assert confirm.conclude(fast.tiny.settings, NAME)[0].seeds == (1338, 1339, 1340)
    fast.prepare(seeds=2)
    assert fast.slots()["closed"] == 9  # fewer are no reason to take some away


def test_equal_configurations_are_one_finalist(fast):
    study = fast.load("tiny")
    best = min(study.get_trials()[1:], key=lambda trial: trial.value)
    study.add_trial(best)  # as the sampler may draw it again
    definition = fast.prepare(top=4)
    assert sorted(definition.arms[:5]) == [BASELINE, "trial 1", "trial 2", "trial 3", "trial 4"]


def test_fewer_finalists_than_asked_for_are_said(fast):
    fast.prepare(top=9)
    assert fast.said == ["study tiny has no more than 4 to confirm"]


def test_a_search_that_has_gone_on_is_said_and_its_finalists_stay(fast):
    definition = fast.prepare(top=2)
    study = fast.load("tiny")
    best = min(study.get_trials()[1:], key=lambda trial: trial.value)
    best.user_attrs["config"]["optimizer"]["lr"] = 0.5
    best.value = 0.0
    study.add_trial(best)
    assert fast.prepare().cells == definition.cells
    assert fast.said[-1].startswith("study tiny has found better since, not confirmed here: trial 5; ")


def test_what_cannot_be_confirmed_is_refused_in_one_line(fast):
    settings = fast.tiny.settings
    fast.prepare(top=2)

    def refused(study, **others):
        with pytest.raises(UserError) as caught:
            confirm.prepare(settings, study, **{"top": None, "seeds": 2, "say": print} | others)
        return str(caught.value)

    assert refused("nosuch").startswith("study 'nosuch' is not in sqlite:///")
    assert refused(NAME).endswith("is a confirmation itself; give the study that it confirms: tiny")
    assert "was made with --top 2, given 3; give another one a name of its own" in refused("tiny", top=3)
    assert "study 'tiny' is no confirmation of 'tiny'" in refused("tiny", name="tiny")
    assert "a name has letters, digits" in refused("tiny", name="a/b")


def test_a_study_without_a_finished_trial_is_refused(tiny):
    tiny.create(2)
    with pytest.raises(UserError, match=r"no complete trial beside its baseline to confirm \(no trials\)"):
        Confirmation(tiny).prepare()


def test_the_base_file_is_run_as_baseline_of_a_search_that_had_none(tmp_path, monkeypatch):
    monkeypatch.setattr(gpt, "GptRun", FastRun)
    bare = Confirmation(searched(tmp_path, 2, SPACE + "baseline: false\n"))
    base = bare.prepare().base_config
    bare.worker().work()
    ranked = sorted(bare.tiny.trials(), key=lambda trial: trial.value)
    arms = [BASELINE, *(f"trial {trial.number}" for trial in ranked)]
    assert bare.complete() == [(arm, seed) for seed in (1338, 1339) for arm in arms]
    rates = [trial.user_attrs["config"]["optimizer"]["lr"] for trial in bare.load().get_trials()][:3]
    assert rates == [base.optimizer.lr, *(trial.params["optimizer.lr"] for trial in ranked)]


def test_where_every_configuration_is_out_there_is_no_verdict(fast):
    fast.prepare(top=2)
    with pytest.raises(
        UserError, match=r"no configuration is complete on every seed \(baseline: 2 of 2 runs"
    ):
        confirm.conclude(fast.tiny.settings, NAME)


@pytest.mark.parametrize(("seed", "fresh"), [(7, range(8, 28)), (LARGEST_SEED, range(20))])
def test_fresh_seeds_are_ones_that_can_be_trained(tiny, seed, fresh):
    tiny.write(seed=seed)
    assert confirm._fresh_seeds(study_config.load(tiny.file)) == list(fresh)
