import math

import pytest

from service.search.thaw import Thaw
from tests.benchmarks.search import stopping
from tests.benchmarks.search.arms import drawn_at_random
from tests.benchmarks.search.replay import Replay
from tests.benchmarks.search.stopping import GoesOn, Stopped, line, stopped
from tests.benchmarks.test_search import BOWL


def test_a_search_is_followed_beyond_where_it_would_have_stopped():
    gain, seed = 0.02, 0
    found = stopped(BOWL, gain, None, seed)
    replay = Replay(BOWL, Thaw(stop_gain=gain), drawn_at_random, seed)
    alone = replay.run(budget_tokens=stopping.MOST * BOWL.cell_tokens)
    assert found.trials == replay.claimed() / BOWL.cell_tokens >= 5
    assert found.regret == pytest.approx(alone.best[-1] - 1.0)  # the lowest cell's
    assert 0 <= found.gain <= found.regret


def test_no_more_than_the_tokens_of_ten_trials_are_trained_on_after_it():
    searcher = GoesOn(Thaw(stop_gain=math.inf), 10 * BOWL.cell_tokens)
    replay = Replay(BOWL, searcher, drawn_at_random, 1)
    replay.run(budget_tokens=60 * BOWL.cell_tokens)
    further = replay.claimed() - (60 * BOWL.cell_tokens - searcher.left)
    assert 0 <= further - 10 * BOWL.cell_tokens < 15  # of the last rung


def test_one_that_does_not_stop_is_counted_as_such(monkeypatch):
    monkeypatch.setattr(stopping, "MOST", 8)
    assert stopped(BOWL, 0.0, None, 0) is None
    found = [Stopped(8.0, 0.0, 0.0, 0.1, True), Stopped(10.0, 0.2, 0.1, 0.2, False), None]
    assert line("bowl", "nothing", 0.5, found) == (
        "| bowl | nothing | 0.5 | 2 of 3 | 9.0 (7.5 to 10.5) | 0.1000 (0.2000) | 0.1500 | 0.0500 | 50% |\n"
    )
    assert line("bowl", "nothing", 0.5, [None]) == "| bowl | nothing | 0.5 | 0 of 1 | | | | | |\n"
