"""Two studies in a database of their own, and one that Optuna and this project have opened side by side."""

import json

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage

from service.storage.budget import BUDGET
from service.storage.claims import Claims
from service.storage.optuna_private import USER_ATTRIBUTES
from service.storage.pauses import Pauses
from service.storage.schema import StudyKey
from service.storage.slots import Slots
from service.storage.study_storage import StudyCache, StudyStorage
from tests.conftest import make_two_studies


@pytest.fixture
def engine(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'slots.db'}")
    make_two_studies(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def claims_of(engine):
    def make(owner: str, *, lease_seconds: float = 60, study_id: int = 1) -> Claims:
        slots = Slots(engine, StudyKey(study_id, "gh"[study_id - 1]))
        return Claims(slots, owner=owner, lease_seconds=lease_seconds)

    return make


@pytest.fixture
def pauses_with(engine, claims_of):
    """Gives the first study a budget; what each of its workers may do then."""

    def make(budget: dict[str, int]):
        with engine.begin() as connection:
            row = {"study_id": 1, "key": BUDGET, "value_json": json.dumps(budget)}
            connection.execute(USER_ATTRIBUTES.insert().values(row))
        return lambda owner, **arguments: Pauses(claims_of(owner, **arguments))

    return make


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'study.db'}"
    return request.getfixturevalue("postgresql").new_database()


@pytest.fixture
def engine_of_each(url):
    """As `engine`, of every database that a storage may be."""
    engine = sa.create_engine(url)
    make_two_studies(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def pair(url):
    """One study, opened by Optuna and by us."""
    theirs = RDBStorage(url)
    optuna.create_study(study_name="s", storage=theirs)
    ours = StudyStorage(url, skip_table_creation=True)
    yield (
        optuna.load_study(study_name="s", storage=theirs),
        optuna.load_study(study_name="s", storage=StudyCache(ours)),
    )
    theirs.engine.dispose()
    ours.engine.dispose()


@pytest.fixture
def assert_same():
    """Fails where trials differ in anything."""

    def check(ours, theirs):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert repr(sorted(vars(one).items())) == repr(sorted(vars(other).items()))  # NaN is not NaN

    return check


@pytest.fixture
def sample():
    """Gives a trial something of everything."""

    def write(trial, value):
        trial.suggest_float("optimizer.lr", 1e-4, 1e-2, log=True)
        trial.suggest_int("layers", 1, 9, step=2)
        trial.suggest_categorical("shape", ["a", None, 3])
        trial.set_user_attr("config", {"a": [1, {"b": None}], "c": value})
        trial.set_user_attr("text", "ä 'quoted' %s :x")
        trial.storage.set_trial_system_attr(trial._trial_id, "note", "x")

    return write
