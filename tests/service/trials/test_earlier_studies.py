import contextlib

import optuna
import pytest
import structlog
from optuna.trial import create_trial

from service.storage.earlier_trials import RECORDED
from service.storage.opened_study import open_study
from service.trials.earlier_studies import earlier_studies, when_to_stop
from tests.earlier_study import EARLIER, NOW, results


def test_a_study_that_is_gone_or_says_too_little_is_left_out_and_the_log_says_so(before):
    results(before, "before", 2.0, 1.5, 1.2, 1.0)
    before.write(NOW + "sampler: {name: thaw, prior: [before]}\n")
    before.create(1)
    asked = ("before", "gone", "tiny", *RECORDED, "studies/gone")
    with (
        contextlib.closing(open_study(before.settings, "tiny")) as opened,
        structlog.testing.capture_logs() as lines,
    ):
        found = earlier_studies(opened, asked, log=structlog.get_logger())
    # of four, whose rates go to 0.1
    assert [values["optimizer.lr"] for values in found[0].tried] == pytest.approx([1e-2, 1e-3, 1e-4])
    said = {line["study"]: line["event"] for line in lines}
    assert said == {
        "before": "an earlier study is learned from",
        "gone": "an earlier study cannot be read, its trials are left out",
        "tiny": "an earlier study says too little",
        **dict.fromkeys(RECORDED, "an earlier study is learned from"),
        "studies/gone": "an earlier study cannot be read, its trials are left out",
    }
    assert len(found[1].tried) > 100


@pytest.mark.slow
def test_a_search_with_a_prior_begins_its_best_after_the_baseline(before):
    results(before, "before", 2.0, 1.5, 1.2, 1.9, 1.95)
    before.write(NOW + "sampler: {name: thaw, prior: [before]}\n")
    before.create(2)
    before.worker().work()
    first, second = before.trials()[:2]
    assert first.params["optimizer.lr"] == 1e-3
    # the third is the best by far, and lies in the space
    assert second.params["optimizer.lr"] == pytest.approx(10**-2.5)
    assert second.params["model.dropout"] == 0.05


def test_a_search_stops_at_the_noise_that_another_study_has_measured_and_not_once_that_is_gone(
    before, capsys
):
    with contextlib.closing(open_study(before.settings, "before")) as opened:
        for value in (1.0, 3.0):
            opened.study.add_trial(create_trial(value=value, user_attrs={"arm": "A"}))
    before.write(EARLIER.replace("random", "thaw") + "stop: {noise: before}\n")
    before.create(1)
    assert "stops by itself below 1.4, the noise between seeds: before, 2 runs" in capsys.readouterr().out
    with (
        contextlib.closing(open_study(before.settings, "tiny")) as opened,
        structlog.testing.capture_logs() as lines,
    ):
        log = structlog.get_logger()
        found = when_to_stop(opened, log=log)
        assert found["stop_gain"] == pytest.approx(2**0.5)
        assert found["stop_by"] == "the noise between seeds, measured by before,"
        optuna.delete_study(study_name="before", storage=opened.settings.storage_url)
        assert when_to_stop(opened, log=log) == {}
    assert "is not in" in lines[-1]["reason"]
