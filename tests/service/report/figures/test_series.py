from service.report.figures.series import dots, drawn_arms, published_values
from tests.service.report.figures.conftest import PUBLISHED


def test_published_values_are_those_of_the_metrics_column():
    assert published_values(PUBLISHED, "val_loss") == {"slow": 2.5}
    assert published_values(PUBLISHED, "train_loss") == {}


def test_of_more_arms_than_fit_the_best_are_drawn_and_the_baseline(record_of):
    study = record_of(**{f"arm {i}": {"val_loss": [100.0 - i]} for i in range(30)})
    names = [arm.name for arm in drawn_arms(study)]
    assert names == ["arm 0", *(f"arm {i}" for i in range(6, 30))]


def test_times_are_drawn_from_the_lowest_run_to_the_highest(record_of):
    study = record_of(a={"val_loss": [1.0, 1.0], "seconds": [2.0, 8.0]})
    (dot,) = dots(drawn_arms(study), "seconds", of_runs=True).series
    assert (dot.x, dot.low, dot.high) == ((5.0,), (2.0,), (8.0,))


def test_dots_of_a_metric_that_no_arm_has_are_none(record_of):
    study = record_of(a={"val_loss": [1.0]})
    assert dots(drawn_arms(study), "accuracy") is None
