"""One study that Optuna and this project have opened side by side."""

import optuna
import pytest
from optuna.storages import RDBStorage

from service.storage.study_storage import StudyCache, StudyStorage


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'study.db'}"
    return request.getfixturevalue("postgresql").new_database()


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
