import threading
import time

import pytest
import sqlalchemy as sa
import structlog

from service.storage.claims import Claims
from service.storage.roster import Roster
from service.storage.schema import StudyKey
from service.storage.slots import Slots
from service.trials.lease import Lease
from tests.conftest import make_two_studies


@pytest.mark.parametrize("lease_seconds", [1.0, 1.3])
def test_the_shortest_lease_that_is_allowed_is_kept(tmp_path, lease_seconds):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'slots.db'}", connect_args={"timeout": 60})
    make_two_studies(engine)
    study = StudyKey(1, "g")
    own, other = (
        Claims(Slots(engine, study), owner=owner, lease_seconds=lease_seconds) for owner in ("own", "other")
    )
    own.slots.total(1)
    roster = Roster(engine, study, lease_seconds=lease_seconds)
    number = roster.register("own", device="cpu")
    slot = own.claim()
    assert slot is not None
    lease = Lease(
        own,
        slot,
        beat=lambda: None,
        renew_worker=lambda: roster.renew(number),
        log=structlog.get_logger(),
    )
    until = time.monotonic() + 2.5 * lease_seconds
    with lease:
        while time.monotonic() < until:
            assert other.claim() is None
            threading.Event().wait(0.02)
    lease.check()
    engine.dispose()
