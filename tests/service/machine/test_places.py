import pytest

from service.machine import places as machine
from service.machine.places import Place, places, visible_gpus
from service.settings import Settings


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 4)


def settings(**values):
    return Settings(storage_url="sqlite://", artifacts="a", cache="c", **values)


def test_one_worker_for_two_cores_unless_a_number_is_given(four_cores):
    assert places(settings(device="cpu")) == [Place(None, 2), Place(None, 2)]
    assert places(settings(device="cpu"), workers=1) == [Place(None, 4)]
    assert places(settings(device="cpu"), workers=8) == [Place(None, 1)] * 8


def test_threads_of_a_worker_may_be_given(four_cores):
    assert places(settings(device="cpu"), threads=1) == [Place(None, 1)] * 4
    assert places(settings(device="cpu"), threads=3) == [Place(None, 3)]
    assert places(settings(device="cpu"), threads=8) == [Place(None, 8)]
    assert places(settings(device="cpu"), workers=1, threads=2) == [Place(None, 2)]


def test_workers_are_pinned_to_gpus_in_turn(four_cores, monkeypatch):
    monkeypatch.setattr(machine, "visible_gpus", lambda device: ["0", "1"])
    assert places(settings()) == [Place("0", 2), Place("1", 2)]
    assert [place.gpu for place in places(settings(workers_per_gpu=2))] == ["0", "1", "0", "1"]
    assert [place.gpu for place in places(settings(), workers=3)] == ["0", "1", "0"]


def test_a_gpu_that_is_named_has_as_many_workers_as_any(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 64)
    assert places(settings(device="cuda:0")) == [Place(None, 64)]
    assert places(settings(device="cuda:1", workers_per_gpu=2)) == [Place(None, 32, sharing=2)] * 2
    assert places(settings(device="cuda:1"), workers=4) == [Place(None, 16, sharing=4)] * 4


def test_workers_know_how_many_share_their_gpu(four_cores, monkeypatch):
    monkeypatch.setattr(machine, "visible_gpus", lambda device: ["0", "1"])
    assert [place.sharing for place in places(settings())] == [1, 1]
    assert [place.sharing for place in places(settings(workers_per_gpu=3))] == [3] * 6
    assert [place.sharing for place in places(settings(), workers=3)] == [2] * 3


@pytest.mark.parametrize(
    ("given", "found", "entries"),
    [
        ("", 2, ["0", "1"]),
        ("3,1", 2, ["3", "1"]),
        ("3,9", 1, ["3"]),  # torch ends its count at one that is not there
        ("GPU-a,GPU-b", 2, ["GPU-a", "GPU-b"]),
        ("MIG-a,MIG-b,MIG-c", 1, ["MIG-a", "MIG-b", "MIG-c"]),
        ("MIG-a", 0, []),
    ],
)
def test_gpus_are_told_apart_as_cuda_visible_devices_names_them(given, found, entries):
    assert machine._entries(given, found) == entries


def test_no_gpu_is_shared_out_where_the_device_is_named(monkeypatch):
    assert visible_gpus("cpu") == []
    assert visible_gpus("cuda:1") == []
