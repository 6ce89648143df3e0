import numpy as np
import pytest

from service.search.coordinates import Coordinates
from service.study.parameters import CategoricalParameter, FloatParameter, IntParameter
from service.study.search_space import SearchSpace

SPACE = SearchSpace(
    {
        "lr": FloatParameter(type="float", low=1e-4, high=1e-2, log=True),
        "dropout": FloatParameter(type="float", low=0.0, high=0.3, step=0.1),
        "warmup": FloatParameter(type="float", low=0.0, high=0.3),
        "layers": IntParameter(type="int", low=2, high=6, step=2),
        "width": IntParameter(type="int", low=1, high=64, log=True),
        "batch": CategoricalParameter(type="categorical", choices=(64, 32, 128)),
        "method": CategoricalParameter(type="categorical", choices=("none", "sam", "asam")),
        "tied": CategoricalParameter(type="categorical", choices=(True, False)),
        "rho": FloatParameter(type="float", low=0.02, high=2.0, log=True, when={"method": ("sam", "asam")}),
    }
)
COORDINATES = Coordinates(SPACE)
POINTS = COORDINATES.values(np.random.default_rng(0).random((300, 9)))


def test_every_place_is_a_point_of_the_space():
    assert all(SPACE.is_complete(point) for point in POINTS)
    assert all(SPACE.point(SPACE.encode(point), whole=True) == point for point in POINTS)
    for key, count in {"dropout": 4, "layers": 3, "batch": 3, "method": 3, "tied": 2}.items():
        assert len({point[key] for point in POINTS}) == count


def test_the_place_of_a_point_gives_the_point_again():
    again = COORDINATES.values(COORDINATES.places(POINTS))
    for point, other in zip(POINTS, again, strict=True):
        assert other == pytest.approx({**point}) if "rho" not in point else other.keys() == point.keys()
        assert {k: v for k, v in other.items() if not isinstance(v, float)} == {
            k: v for k, v in point.items() if not isinstance(v, float)
        }


@pytest.mark.parametrize("key", ["dropout", "layers", "batch", "method"])
def test_each_of_some_values_has_an_equal_share_of_the_places(key):
    column = list(SPACE.parameters).index(key)
    places = np.full((1200, 9), 0.5)
    places[:, column] = (np.arange(1200) + 0.5) / 1200
    values = [point[key] for point in COORDINATES.values(places)]
    assert {values.count(value) for value in values} == {1200 // len(set(values))}


def row(**values):
    whole = {"lr": 1e-3, "dropout": 0.1, "warmup": 0.15, "layers": 4, "width": 8, "batch": 64}
    return COORDINATES.rows([{**whole, "method": "none", "tied": True, **values}])[0]


def columns(key):
    return COORDINATES.owner == list(SPACE.parameters).index(key)


def test_a_range_is_a_column_from_minus_one_to_one():
    assert row(lr=1e-4)[columns("lr")] == -1
    assert row(lr=1e-3)[columns("lr")] == pytest.approx(0)
    assert row(layers=6)[columns("layers")] == 1


def test_choices_that_are_numbers_stand_by_rank_and_others_are_equally_far_apart():
    assert [row(batch=n)[columns("batch")].item() for n in (32, 64, 128)] == [-1, 0, 1]
    rows = [row(method=m, rho=0.2)[columns("method")] for m in ("sam", "asam")] + [row()[columns("method")]]
    apart = [np.linalg.norm(a - b) for a, b in ((rows[0], rows[1]), (rows[0], rows[2]), (rows[1], rows[2]))]
    assert apart == pytest.approx([2, 2, 2])  # as the ends of a range
    assert np.linalg.norm(row(tied=True) - row(tied=False)) == pytest.approx(2)


def test_a_parameter_that_does_not_exist_stands_in_the_middle():
    assert row()[columns("rho")] == 0
    assert row(method="sam", rho=0.02)[columns("rho")] == -1


def test_points_spread_over_the_space_go_on_where_they_were_left():
    whole = COORDINATES.spread(3, 64)
    assert np.array_equal(COORDINATES.spread(3, 16, skip=48), whole[48:])
    halves = (whole < 0.5).sum(0)
    assert np.array_equal(halves, np.full(9, 32))  # of a Sobol sequence, exactly
    assert not np.array_equal(COORDINATES.spread(4, 64), whole)


def test_the_nearest_point_to_one_of_the_space_is_that_point():
    assert [COORDINATES.nearest(point) for point in POINTS] == POINTS


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [
        ("lr", 1.0, 1e-2),
        ("lr", 3e-5, 1e-4),
        ("dropout", 0.17, 0.2),
        ("dropout", 9, 0.3),
        ("layers", 3.2, 4),
        ("layers", 12, 6),
        ("width", 96, 64),
        ("batch", 100, 128),
        ("batch", 4, 32),
    ],
)
def test_numbers_move_to_the_nearest_that_the_space_has(key, value, nearest):
    found = COORDINATES.nearest(POINTS[0] | {key: value})
    assert found == POINTS[0] | {key: nearest}
    assert type(found[key]) is type(nearest)


def test_nothing_is_near_to_what_has_no_order_or_is_missing():
    assert COORDINATES.nearest(POINTS[0] | {"method": "muon"}) is None
    assert COORDINATES.nearest({key: value for key, value in POINTS[0].items() if key != "lr"}) is None
