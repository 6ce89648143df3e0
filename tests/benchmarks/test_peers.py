from tests.benchmarks.loss_table import LossTable
from tests.benchmarks.search import peers
from tests.benchmarks.search.peers import Job
from tests.benchmarks.search.surrogate import WORST

RUNGS = (10, 25, 40)
TABLE = LossTable({"x": (0, 1, 2)}, RUNGS, {(0,): (2.0, 1.5, 1.0), (1,): (2.2, 1.9, 1.8), (2,): (2.5,)})


class Script:
    """Asks for what it was told to, and keeps what it was told; `follows` it sends a worker on with at once."""

    def __init__(self, *jobs, follows=None):
        self.left = [Job({"x": x}, rung, None) for x, rung in jobs]
        self.follows = follows or {}
        self.told = []

    def ask(self):
        return self.left.pop(0)

    def tell(self, job, loss):
        self.told.append((job.values["x"], job.rung, loss))
        rung = self.follows.get((job.values["x"], job.rung))
        return Job(job.values, rung, None) if rung else None


def test_what_goes_on_costs_what_it_is_trained_further():
    script = Script((1, 1), (0, 1), (0, 3), (1, 3))
    found = peers.search(TABLE, script, workers=1, budget_tokens=1000, target=1.0)
    assert script.told == [(1, 1, 2.2), (0, 1, 2.0)]
    assert (found.tokens, found.best, found.trials) == ([10 + 10 + 30], [1.0], 2)


def test_a_tool_may_send_a_worker_on():
    script = Script((0, 1), follows={(0, 1): 2, (0, 2): 3})
    found = peers.search(TABLE, script, workers=1, budget_tokens=1000, target=1.0)
    assert script.told == [(0, 1, 2.0), (0, 2, 1.5)]
    assert found.tokens == [40]


def test_what_diverges_costs_the_rung_it_did_not_reach_and_is_as_bad_as_a_guess():
    script = Script((2, 3), (0, 3))
    found = peers.search(TABLE, script, workers=1, budget_tokens=1000, target=1.0)
    assert script.told == [(2, 3, WORST)]
    assert found.tokens == [25 + 40]


def test_workers_train_side_by_side_and_all_tokens_count():
    script = Script((1, 3), (0, 2), (0, 3), (2, 1))
    found = peers.search(TABLE, script, workers=2, budget_tokens=1000, target=1.0)
    assert (found.tokens, found.best) == ([80, 80], [1.8, 1.0])


def test_what_is_asked_for_again_costs_again_until_the_budget_is_spent():
    script = Script(*[(1, 3)] * 9)
    found = peers.search(TABLE, script, workers=1, budget_tokens=100, target=1.0)
    assert (found.tokens, found.best, len(script.told)) == ([40], [1.8], 2)
