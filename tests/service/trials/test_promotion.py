import dataclasses
import itertools
import json
import os
from pathlib import Path

import numpy as np
import optuna
import pytest
import structlog
from optuna.trial import TrialState

from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import ConfigError
from model.hardware import device
from model.training import TrainingRun
from service.catalogue.intake import enqueue
from service.search.forecast import AHEAD
from service.storage.budget import BUDGET, Budget, what_came
from service.storage.opened_study import open_study
from service.storage.optuna_private import USER_ATTRIBUTES
from service.storage.slots import SEEN_FAILURE
from service.storage.studies import StudyError
from service.study.prices import Prices
from service.study.search_space import SearchSpace
from service.trials import gpt
from service.trials.promotion import Promotion
from service.trials.resumption import FAILURES
from service.trials.saved_states import SavedStates
from tests.fast_run import STEPS_PER_RUNG, FastRun, chain, fork_worker, loss

SPACE = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
"""
ASHA = "sampler: {name: random}\npruner: {name: asha, reduction_factor: 2}\n"
THAW = "sampler: {name: thaw, startup_trials: 2}\n"
both = pytest.mark.parametrize("how", [ASHA, THAW], ids=["asha", "thaw"])
RUNGS = (3000, 6000, 9000)


@pytest.fixture
def fast(monkeypatch):
    """Training of milliseconds; runs of the test's own class where it gives one."""

    def use(run=FastRun):
        monkeypatch.setattr(run, "step_seconds", 0.0)
        monkeypatch.setattr(gpt, "GptRun", run)

    use()
    return use


def write(tiny, how=ASHA):
    tiny.write(SPACE + how)


def tokens(tiny):
    opened = open_study(tiny.settings, "tiny")
    try:
        seen = opened.budget.read()
        return seen.granted, [row.tokens for row in seen.slots], opened.trials_left()
    finally:
        opened.close()


def saved_states(tiny):
    return [path.name for path in Path(tiny.settings.artifacts).iterdir() if path.name.startswith("state-")]


def assert_whole(tiny, *, whole):
    """Every token is spent once, every trial has ended, and every loss is that of a run never paused."""
    granted, claimed, left = tokens(tiny)
    assert granted == whole * RUNGS[-1] == sum(claimed)
    assert left == 0
    assert set(tiny.slots().items()) == {("open", 0), ("leased", 0), ("held", 0), ("closed", len(claimed))}
    assert saved_states(tiny) == []
    ended = [t for t in tiny.trials() if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert sorted(max(trial.intermediate_values) for trial in ended) == sorted(claimed)
    assert len({trial.params["optimizer.lr"] for trial in ended}) == len(ended) == len(claimed)
    for trial in ended:
        for passed, rung in enumerate(RUNGS[: len(trial.intermediate_values)], start=1):
            steps = passed * STEPS_PER_RUNG
            assert trial.intermediate_values[rung] == loss(chain(trial.params["optimizer.lr"], steps))
        last = max(trial.intermediate_values)
        assert trial.value == trial.intermediate_values[last]
        assert (trial.state == TrialState.COMPLETE) == (last == RUNGS[-1])


@both
def test_a_budget_is_spent_to_the_token_and_what_waits_ends_pruned_with_its_last_loss(tiny, fast, how):
    write(tiny, how)
    tiny.create(3)
    tiny.worker().work()
    assert_whole(tiny, whole=3)
    trials = tiny.trials()
    assert len(trials) > 3
    assert trials[0].params == {"optimizer.lr": 1e-3}  # the baseline
    assert [t.state for t in trials if t.state == TrialState.FAIL] == []
    ends = {t.user_attrs["ended"] for t in trials}
    assert "complete" in ends
    assert "paused at rung 1 of 3, not promoted" in ends
    names = [
        entry
        for entry in trials[1].system_attrs.values()
        if isinstance(entry, str) and "curve.jsonl" in entry
    ]
    assert len(names) == 1  # one file, however often a trial has paused


@both
def test_what_waits_is_saved_at_its_rung_though_saving_has_taken_its_share(tiny, fast, how, monkeypatch):
    trained = []

    class Counted(FastRun):
        def __iter__(self):
            for evaluation in super().__iter__():
                trained.append((self.config.optimizer.lr, evaluation.rung_tokens))
                yield evaluation

    monkeypatch.setattr(SavedStates, "due", False)
    fast(Counted)
    write(tiny, how)
    tiny.create(3)
    tiny.worker().work()
    assert_whole(tiny, whole=3)
    assert len(trained) == len(set(trained))  # no rung twice
    assert any(trial.user_attrs.get("pauses") for trial in tiny.trials())


@both
def test_the_baseline_is_run_to_its_end_however_bad_it_is(tiny, fast, how):
    class BadBaseline(FastRun):
        def __iter__(self):
            for evaluation in super().__iter__():
                if self.config.optimizer.lr == 1e-3:
                    evaluation = self.evaluations[-1] = dataclasses.replace(evaluation, val_loss=9.0)
                yield evaluation

    fast(BadBaseline)
    write(tiny, how)
    tiny.create(3)
    tiny.worker().work()
    baseline = tiny.trials()[0]
    assert baseline.intermediate_values == dict.fromkeys(RUNGS, 9.0)
    assert baseline.state == TrialState.COMPLETE


@pytest.mark.slow
def test_further_trials_are_further_tokens(tiny, fast):
    write(tiny)
    tiny.create(2)
    tiny.worker().work()
    tiny.create(2)
    assert tokens(tiny)[2] == 2
    tiny.worker().work()
    assert_whole(tiny, whole=4)
    tiny.create(total=3)  # no less than there is
    assert tokens(tiny)[2] == 0


@pytest.mark.slow
def test_no_more_trials_wait_than_states_are_kept(tiny, fast, monkeypatch):
    most = []
    original = Promotion.next

    def watched(promotion):
        most.append((len(saved_states(tiny)), len(promotion._pauses.budget.read().waiting())))
        return original(promotion)

    monkeypatch.setattr(Promotion, "next", watched)
    write(tiny, ASHA.replace("2", "3, keep_states: 2"))
    tiny.create(5)
    tiny.worker().work()
    assert max(most) == (2, 2)
    assert "more than 2 wait" in " ".join(trial.user_attrs["ended"] for trial in tiny.trials())
    assert_whole(tiny, whole=5)


@pytest.mark.slow
@both
def test_an_interrupted_and_a_stateless_trial_go_on_within_the_budget(tiny, fast, how):
    calls = itertools.count()
    workers = []

    class Stopping(FastRun):
        def save(self, path):
            call = next(calls)
            if call % 5 == 4:
                workers[-1].stop()
            elif call % 5 == 2:
                raise OSError("no space")
            super().save(path)

    fast(Stopping)
    write(tiny, how)
    tiny.create(6)
    for _ in range(40):
        workers.append(tiny.worker())
        workers[-1].work()
        if not tokens(tiny)[2]:
            break
    assert_whole(tiny, whole=6)
    assert len(workers) > 3


@pytest.mark.slow
@both
def test_a_configuration_that_always_fails_is_given_up_and_gives_its_tokens_back(tiny, fast, how):
    class Failing(FastRun):
        failures = 0

        def __iter__(self):
            if self.config.optimizer.lr != 1e-3 and Failing.failures < FAILURES:
                Failing.failures += 1
                raise RuntimeError("of this configuration")
            yield from super().__iter__()

    fast(Failing)
    write(tiny, how)
    tiny.create(4)
    tiny.worker().work()
    assert_whole(tiny, whole=4)
    failed = [trial for trial in tiny.trials() if trial.state == TrialState.FAIL]
    assert len(failed) == FAILURES
    assert len({trial.params["optimizer.lr"] for trial in failed}) == 1
    assert SEEN_FAILURE > 1


@pytest.mark.slow
@both
def test_a_diverged_trial_is_closed_and_what_was_claimed_for_it_is_spent(tiny, fast, how):
    from model.errors import Diverged

    class Diverging(FastRun):
        def __iter__(self):
            for evaluation in super().__iter__():
                if len(self.evaluations) == 2:
                    raise Diverged("loss nan")
                yield evaluation

    fast(Diverging)
    write(tiny, how)
    tiny.create(4)
    tiny.worker().work()
    granted, claimed, left = tokens(tiny)
    assert (sum(claimed), left, max(claimed)) == (granted, 0, 6000)
    assert {trial.state for trial in tiny.trials()} == {TrialState.PRUNED}
    assert any(trial.user_attrs["ended"].startswith("diverged") for trial in tiny.trials())


def test_a_sampler_sees_paused_trials_as_pruned_and_everybody_else_as_running(tiny, fast, monkeypatch):
    seen = []
    suggest = SearchSpace.suggest

    def watched(space, trial):
        seen.append((trial.study, [t.state for t in trial.study._get_trials(use_cache=True)], tiny.trials()))
        return suggest(space, trial)

    monkeypatch.setattr(SearchSpace, "suggest", watched)
    write(tiny, ASHA.replace("2", "4") + "baseline: false\n")
    tiny.create(1)
    tiny.worker().work()
    _, states, stored = seen[-1]
    assert states == [TrialState.PRUNED, TrialState.PRUNED, TrialState.RUNNING]
    assert [trial.state for trial in stored] == [TrialState.RUNNING] * 3
    assert all(isinstance(study, optuna.Study) for study, _, _ in seen)


@pytest.mark.slow
@both
def test_a_promoted_trial_ends_with_the_bits_of_one_never_paused(tiny, how):
    write(tiny, how)
    tiny.create(4)
    tiny.worker().work()
    opened = open_study(tiny.settings, "tiny")
    corpus, definition = opened.corpus, opened.definition
    trials = opened.study.get_trials()
    opened.close()
    paused = [trial for trial in trials if trial.user_attrs.get("pauses", 0)]
    far = [trial for trial in paused if len(trial.intermediate_values) > 1]
    assert far  # promoted after a pause
    for trial in trials:
        config = definition.config_for(definition.space.decode(trial.params))
        data = TokenizedCorpus.prepare(corpus, config.tokenizer, cache=tiny.settings.cache)
        run = TrainingRun(config, data, device=device.choose("cpu", threads=1))
        losses = {e.rung_tokens: e.val_loss for e in itertools.islice(run, len(trial.intermediate_values))}
        assert losses == trial.intermediate_values


def learning_rates(tiny):
    return [trial.params.get("optimizer.lr") for trial in tiny.trials()]


@both
def test_what_is_enqueued_is_begun_next(tiny, fast, how):
    write(tiny, how)
    tiny.create(3)
    for value in (2e-3, 3e-3):
        enqueue(tiny.settings, "tiny", {"optimizer.lr": value})
    tiny.worker().work()
    assert learning_rates(tiny)[:2] == [2e-3, 3e-3]
    assert [trial.user_attrs["slot"]["number"] for trial in tiny.trials()[:3]] == [1, 2, 0]
    assert_whole(tiny, whole=3)


class Unwell:
    """A searcher whose model fails."""

    def decide(self, problem, begun, left):
        raise np.linalg.LinAlgError("no inverse")


def test_where_the_model_fails_successive_halving_decides_and_the_log_says_so(tiny, fast, monkeypatch):
    write(tiny, THAW)
    tiny.create(3)
    worker = tiny.worker()
    worker._promotion._searcher = Unwell()
    with structlog.testing.capture_logs() as lines:
        worker._promotion._log = structlog.get_logger()
        worker.work()
    assert_whole(tiny, whole=3)
    said = {line["reason"] for line in lines if "successive halving decides" in line["event"]}
    assert said == {"no inverse"}


def test_a_space_that_has_been_tried_out_ends_the_search(tiny, fast):
    tiny.write(f"space:\n  optimizer.lr: {{type: categorical, choices: [1.0e-3, 2.0e-3]}}\n{THAW}")
    tiny.create(9)
    tiny.worker().work()
    assert {trial.state for trial in tiny.trials()} == {TrialState.COMPLETE}
    assert sorted(learning_rates(tiny)) == [1e-3, 2e-3]
    opened = open_study(tiny.settings, "tiny")
    seen = opened.budget.read()
    assert (seen.spent, seen.left, opened.trials_left()) == (2 * RUNGS[-1], 0, 0)
    assert seen.stopped == "every configuration of the space has been tried"
    opened.close()
    tiny.create(9)  # asked for again, and there is still nothing to be tried
    tiny.worker().work()
    assert len(tiny.trials()) == 2


@pytest.mark.slow
def test_the_last_tokens_finish_what_is_best(tiny, fast):
    write(tiny, THAW)
    tiny.create(2)
    tiny.worker().work()
    assert_whole(tiny, whole=2)
    assert TrialState.COMPLETE in {trial.state for trial in tiny.trials()}


@both
def test_known_points_are_tried_after_the_baseline_and_before_the_search(tiny, fast, how):
    write(tiny, how + "try: [{optimizer.lr: 2.0e-3}, {optimizer.lr: 3.0e-3}]\n")
    tiny.create(3)
    enqueue(tiny.settings, "tiny", {"optimizer.lr": 4e-3})
    tiny.worker().work()
    by_slot = sorted(tiny.trials(), key=lambda trial: trial.user_attrs["slot"]["number"])
    assert [trial.params["optimizer.lr"] for trial in by_slot[:4]] == [1e-3, 2e-3, 3e-3, 4e-3]
    assert_whole(tiny, whole=3)


def test_a_search_stops_by_itself_and_goes_on_when_it_is_asked_to(tiny, fast):
    write(tiny, THAW + "stop: {gain: 10.0}\n")
    tiny.create(30)
    tiny.worker().work()
    states = [trial.state for trial in tiny.trials()]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    at_stop = states.count(TrialState.COMPLETE)
    assert at_stop >= 5  # before that there is no telling
    assert saved_states(tiny) == []
    opened = open_study(tiny.settings, "tiny")
    seen = opened.budget.read()
    assert {row.state for row in seen.slots} == {"closed"}
    assert (seen.left, opened.trials_left()) == (0, 0)
    # the baseline, which is as good as any by this gain, and ten times as much since
    assert (1 + AHEAD) * RUNGS[-1] <= seen.spent < (1 + AHEAD) * RUNGS[-1] + RUNGS[0]
    assert seen.granted == 30 * RUNGS[-1]
    assert "stop.gain is 10" in seen.stopped
    opened.close()
    tiny.create(None, total=30)  # no more than there was
    assert tokens(tiny)[2] == 0
    tiny.create(2)
    tiny.worker().work()
    granted, claimed, left = tokens(tiny)
    assert (granted, left) == (sum(claimed), 0)
    assert granted == seen.spent + 2 * RUNGS[-1]
    whole = [trial.value for trial in tiny.trials() if trial.state == TrialState.COMPLETE]
    assert seen.forecast["whole"] == at_stop
    assert seen.forecast["low"] <= seen.forecast["ahead"]
    fall = seen.forecast["best"] - min(whole)
    opened = open_study(tiny.settings, "tiny")
    came = what_came(opened.study.user_attrs, whole)
    opened.close()
    assert came.endswith(f"; {len(whole) - at_stop} more whole ones have lowered it by {fall:.4f}")


@pytest.mark.slow
def test_of_two_workers_both_stop_and_neither_leaves_a_trial_behind(tiny, fast):
    write(tiny, THAW + "stop: {gain: 10.0}\n")
    tiny.create(30)
    workers = [fork_worker(tiny.settings, "tiny", f"{number}") for number in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers] == [0, 0]
    assert set(tiny.slots().items()) == {
        ("open", 0),
        ("leased", 0),
        ("held", 0),
        ("closed", len(tiny.trials())),
    }
    opened = open_study(tiny.settings, "tiny")
    seen = opened.budget.read()
    assert seen.stopped
    assert len([trial for trial in tiny.trials() if trial.state == TrialState.COMPLETE]) >= 5
    spent = sum(max(trial.intermediate_values) for trial in tiny.trials())
    assert spent == seen.spent
    # what the other one was at when the first one stopped is trained to its rung
    assert (1 + AHEAD) * RUNGS[-1] <= spent < (2 + AHEAD) * RUNGS[-1]
    opened.close()


SIZES = "  model.d_ff: {type: categorical, choices: [16, 64, 1024]}\n"
NO_BASELINE = "baseline: false\n"


def spent(tiny):
    """What the budget says, and of every slot its trial and its tokens."""
    opened = open_study(tiny.settings, "tiny")
    try:
        trials = {trial.number: trial for trial in opened.study.get_trials()}
        seen = opened.budget.read()
        return seen, [(trials[row.trial_number], row.tokens) for row in seen.slots], opened.definition
    finally:
        opened.close()


@both
def test_a_budget_in_operations_is_spent_by_what_each_configuration_costs(tiny, fast, how, capsys):
    tiny.write(SPACE + SIZES + NO_BASELINE + how + "spend: {flops: 4.0e+9}\n")
    tiny.create()
    assert "budget of the study: 4.000e9 FLOPs, about 8." in capsys.readouterr().out
    tiny.worker().work()
    seen, slots, definition = spent(tiny)
    prices = Prices(definition.base, definition.space)
    costs = {}
    for trial, claimed in slots:
        price = prices.of(definition.space.decode(trial.params))
        assert claimed == (max(trial.intermediate_values) if trial.intermediate_values else 0)
        costs[trial.number] = price * claimed
    assert seen.spent == sum(costs.values())
    assert seen.granted - seen.spent >= 0
    assert seen.left < RUNGS[0] * max(row.price for row in seen.slots)
    assert tokens(tiny)[2] == 0
    assert {row.state for row in seen.slots} == {"closed"}
    assert len({trial.params["model.d_ff"] for trial, _ in slots}) > 1


def test_a_trial_that_what_is_left_does_not_pay_for_is_not_trained(tiny, fast):
    tiny.write(SPACE + SIZES + NO_BASELINE + ASHA + "spend: {flops: 1.0e+9}\n")
    tiny.create()
    enqueue(tiny.settings, "tiny", {"optimizer.lr": 1e-3, "model.d_ff": 1024})
    opened = open_study(tiny.settings, "tiny")
    of_base, budget = opened.prices.of_base, Budget(opened.slots)
    opened.close()
    # enough for a rung of the base configuration, and not of the one that was asked for
    with budget.slots.engine.begin() as connection:
        text = json.dumps({"flops": 2 * RUNGS[0] * of_base, "claims": 0})
        where = USER_ATTRIBUTES.c.key == BUDGET
        connection.execute(USER_ATTRIBUTES.update().where(where).values(value_json=text))
    tiny.worker().work()
    seen, slots, _ = spent(tiny)
    ends = {trial.user_attrs["ended"]: (trial.state, claimed) for trial, claimed in slots}
    unpaid = "not trained: what is left of the study's budget does not pay for its first rung"
    assert ends[unpaid] == (TrialState.PRUNED, 0)
    assert seen.spent <= seen.granted


class Timed(FastRun):
    """A step takes a second by its own clock."""

    def __iter__(self):
        for evaluation in super().__iter__():
            timed = dataclasses.replace(evaluation, train_seconds=float(self.step), evaluation_seconds=1.0)
            self.evaluations[-1] = timed
            yield timed


@both
def test_a_budget_in_hours_is_spent_by_what_was_measured(tiny, fast, how):
    fast(Timed)
    tiny.write(SPACE + how + f"spend: {{hours: {40 / 3600}}}\n")
    tiny.create()
    with pytest.raises(ConfigError, match=r"^trials: given 3, and the study's budget is in hours"):
        tiny.create(3)
    tiny.worker().work()
    seen, slots, _ = spent(tiny)
    passed = [len(trial.intermediate_values) for trial, _ in slots]
    assert seen.spent == pytest.approx(sum(STEPS_PER_RUNG * rungs + 1 for rungs in passed))
    assert (
        40 - 5 <= seen.spent <= 40 + 5
    )  # a rung takes four or five seconds, and one that has begun is finished
    assert {row.state for row in seen.slots} == {"closed"}
    assert max(passed) == 3
    tiny.create()  # nothing more
    opened = open_study(tiny.settings, "tiny")
    assert opened.trials_left() == 0
    opened.close()


def test_a_higher_amount_in_the_file_is_granted_and_another_unit_refused(tiny, fast):
    tiny.write(SPACE + ASHA + "spend: {tokens: 9000}\n")
    tiny.create()
    tiny.worker().work()
    assert (tokens(tiny)[0], sum(tokens(tiny)[1])) == (9000, 9000)
    tiny.write(SPACE + ASHA + "spend: {tokens: 15000}\n")
    tiny.create()
    tiny.worker().work()
    assert (tokens(tiny)[0], sum(tokens(tiny)[1])) == (15000, 15000)
    tiny.write(SPACE + ASHA + "spend: {hours: 1.0}\n")
    with pytest.raises(StudyError, match="was made with another unit of its budget"):
        tiny.create()
