import pytest
import sqlalchemy as sa

from service.storage.claims import Claims
from service.storage.schema import StudyKey
from service.storage.slots import Slots
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
