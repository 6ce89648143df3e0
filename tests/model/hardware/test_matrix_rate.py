import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.hardware.matrix_rate import matrix_rate
from model.hardware.precision import Precision
from tests.model.test_training import (
    CPU,
)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_the_yardstick_of_utilisation_is_timed_without_casts(name):
    called = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append((str(function), [a.dtype for a in args if isinstance(a, torch.Tensor)]))
            return function(*args, **(kwargs or {}))

    with Seen():
        rate = matrix_rate.__wrapped__(CPU, Precision(name, "", "cpu"))
    assert rate > 0
    products = [index for index, (function, _) in enumerate(called) if function.startswith("aten.mm")]
    assert len(products) == 6
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
    assert {dtype for function, dtypes in called[products[0] :] for dtype in dtypes} == {wanted}
    assert all(function.startswith("aten.mm") for function, _ in called[products[0] :])


def test_the_matrix_rate_is_measured_once_and_leaves_the_random_state(monkeypatch):
    precision = Precision("fp32", "a test", "cpu")
    generator = torch.get_rng_state()
    first = matrix_rate(CPU, precision)
    assert matrix_rate(CPU, precision) == first
    assert torch.equal(torch.get_rng_state(), generator)
    assert 1e8 < first < 1e14  # a CPU between a very slow and an impossible one
