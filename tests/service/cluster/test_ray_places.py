from fractions import Fraction

import pytest

from model.errors import UserError
from service.cluster.ray_places import handed_on, part_of_gpu


@pytest.mark.parametrize(
    ("given", "part"), [("0", 0), ("1", 1), ("0.25", Fraction(1, 4)), ("1/3", Fraction(1, 3))]
)
def test_a_worker_has_a_gpu_or_a_part_of_one(given, part):
    assert part_of_gpu(given) == part


@pytest.mark.parametrize("given", ["2", "-1", "one", "1/0", "0.001", "nan", ""])
def test_other_parts_are_refused(given):
    with pytest.raises(UserError, match=r"--gpus: given .*, allowed: 0, 1, or a part"):
        part_of_gpu(given)


def test_workers_get_what_they_need_from_the_place_of_the_command_and_nothing_else():
    environment = {
        "HPTUNE_STORAGE_URL": "u",
        "PGPASSWORD": "p",
        "AWS_REGION": "r",
        "PATH": "x",
        "RAY_ADDRESS": "y",
    }
    kept = handed_on(environment, sharing=4, gpus=True)
    assert kept == {
        "HPTUNE_STORAGE_URL": "u",
        "PGPASSWORD": "p",
        "AWS_REGION": "r",
        "HPTUNE_WORKERS_PER_GPU": "4",
    }


def test_a_worker_without_a_gpu_does_not_look_for_one():
    assert handed_on({}, sharing=1, gpus=False)["HPTUNE_DEVICE"] == "cpu"
    assert handed_on({"HPTUNE_DEVICE": "auto"}, sharing=1, gpus=False)["HPTUNE_DEVICE"] == "auto"
