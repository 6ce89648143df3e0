"""How fast a device multiplies matrices, as the yardstick of utilisation."""

import time
from functools import cache

import torch

from model.hardware.device import Device
from model.hardware.precision import Precision

_REPEATS = 5


@cache
def matrix_rate(device: Device, precision: Precision) -> float:
    """Floating-point operations a second in square matrix products of this number format, measured once a process.

    The best of five measurements, each of 20 products of 4,096 rows on a GPU and of one of 1,024 rows on a CPU: a rate
    that this device reaches, and not the one in its data sheet. No global random state is read or changed.
    """
    # a GPU is waited for behind many products, so that what the wait takes is not in the rate
    size, products = (1_024, 1) if device.torch_device.type == "cpu" else (4_096, 20)
    generator = torch.Generator(device.torch_device).manual_seed(0)  # zeros would be faster on a GPU
    matrix = torch.randn(size, size, generator=generator, device=device.torch_device).to(precision.dtype)
    result = torch.empty_like(matrix)
    seconds = []
    for _ in range(1 + _REPEATS):  # the first one warms up
        device.synchronize()
        started = time.perf_counter()
        for _ in range(products):
            torch.mm(matrix, matrix, out=result)
        device.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 * products / min(seconds[1:])
