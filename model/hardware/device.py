"""The device a process trains on, its threads, and the random state of a step."""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from model.errors import ConfigError

_WARM_UP_CALLS = 3
"""Before a capture, as torch's own `make_graphed_callables` makes them: libraries set themselves up at first use."""


_SHARED_OUT = 0.9
"""Of a GPU's memory among the workers on it; each has a CUDA context beside what its tensors take."""


@dataclass(frozen=True)
class Device:
    """Where a process computes."""

    torch_device: torch.device
    threads: int
    """CPU threads of this process."""
    runs_ahead: bool = False
    """Gradients are recorded as CUDA graphs, and the host queues a step while the device is at work on the one before.
    Of GPUs alone."""

    @property
    def description(self) -> str:
        """Its name for provenance and tables."""
        if self.torch_device.type == "cuda":
            return torch.cuda.get_device_name(self.torch_device)
        return f"CPU, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def generator(self) -> torch.Generator:
        """The generator of random numbers that its operators draw from."""
        if self.torch_device.type != "cuda":
            return torch.default_generator
        torch.cuda.init()  # type: ignore[no-untyped-call]
        index = self.torch_device.index
        return torch.cuda.default_generators[torch.cuda.current_device() if index is None else index]

    def seed_step(self, seed: int, step: int, part: int) -> None:
        """Make the random numbers of one part of a step a function of (seed, step, part) alone.

        The dropout masks of a step then need no saved generator state to be drawn again, by a resumed run or by
        the second pass of SAM.
        """
        # splitmix64's finaliser: neighbouring (seed, step, part) get unrelated generator states
        x = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + part * 0x94D049BB133111EB) & (2**64 - 1)
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        # torch.manual_seed also notes a stack trace for every kind of device that is not in use, which takes 0.3 ms
        self.generator.manual_seed((x ^ (x >> 31)) & (2**63 - 1))

    def upload(self, array: NDArray[Any]) -> Tensor:
        """The array as a tensor there; the host does not wait for the copy to a GPU."""
        tensor = torch.from_numpy(array)
        if self.torch_device.type == "cuda":  # a copy from other memory than pinned one is waited for
            tensor = tensor.pin_memory()
        return tensor.to(self.torch_device, non_blocking=True)

    def capture(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """A CUDA graph of `compute`, which is called a few times.

        Returns:
            What replays it, and the tensor that holds the result of the last replay.

        Raises:
            RuntimeError: `compute` waits for the device, or does something else that no graph can.
        """
        with torch.cuda.device(self.torch_device):
            here = torch.cuda.current_stream()
            aside = _stream_for_captures(here.device)
            aside.wait_stream(here)
            try:
                with torch.cuda.stream(aside):
                    for _ in range(_WARM_UP_CALLS):
                        compute()
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph, stream=aside):
                        result = compute()
            finally:  # what has been computed there is read here, whether or not a graph came of it
                here.wait_stream(aside)
        return graph.replay, result

    def synchronize(self) -> None:
        """Wait for the queued work, so that a clock read after it is true."""
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize(self.torch_device)

    def answers(self) -> bool:
        """Whether it still computes. After some faults every further call of CUDA in this process fails."""
        try:
            self.synchronize()
        except RuntimeError:
            return False
        return True

    def peak_memory_bytes(self) -> int | None:
        """Largest memory allocated on a GPU since `free_memory`; None on a CPU.

        Of all that time: what a graph's replays use counts as allocated only while it is recorded.
        """
        if self.torch_device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self.torch_device)

    def free_memory(self) -> None:
        """Give back what no tensor holds any more, and begin to count the peak anew."""
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.torch_device)


@cache
def _stream_for_captures(device: torch.device) -> torch.cuda.Stream:
    """One for all: cuBLAS keeps a workspace for every stream that it was ever used on, to the end of the process.

    With a stream for every capture a run left 68 MiB behind, on an H200 with PyTorch 2.11.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def choose(name: str = "auto", *, threads: int | None = None, workers: int = 1) -> Device:
    """The device called `name` (`auto`, `cpu`, `cuda`, `cuda:1`, ...), with this process's threads set.

    Sums in a different number of threads differ in their last bits, so a run repeats to the bit only under the
    same number.

    Args:
        name: as in HPTUNE_DEVICE.
        threads: of a CPU; OMP_NUM_THREADS, or else the cores allowed, unless given.
        workers: processes that share a GPU. With several each is held to its share of the memory, so that what fits
            does not depend on what the others train.

    Raises:
        ConfigError: the name is not a device of this machine, its driver is of no use, or HPTUNE_CUDA_GRAPHS is neither
            0 nor 1.
    """
    # OpenMP takes a list, one number a nesting level
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    count = threads or (int(asked) if asked.isdecimal() else 0) or len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    if name == "auto":
        name = "cuda" if torch.cuda.device_count() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"HPTUNE_DEVICE: given {name!r}, allowed: auto, cpu, cuda, cuda:0, ...") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"HPTUNE_DEVICE: given {name!r}, allowed: auto, cpu, cuda, cuda:0, ...")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"HPTUNE_DEVICE: given {name!r}, this machine has {torch.cuda.device_count()} CUDA devices"
        )
    graphs = os.environ.get("HPTUNE_CUDA_GRAPHS") or "1"
    if graphs not in ("0", "1"):
        raise ConfigError(f"HPTUNE_CUDA_GRAPHS: given {graphs!r}, allowed: 0, 1")
    if device.type == "cpu":
        _keep_freed_memory()
    else:
        _set_up_gpu(device, workers)
    return Device(device, count, runs_ahead=device.type == "cuda" and graphs == "1")


def _set_up_gpu(device: torch.device, workers: int) -> None:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:  # a driver that is too old counts its GPUs all the same
        reason = " ".join(str(error).split())
        way_out = "HPTUNE_DEVICE=cpu trains without it"
        raise ConfigError(f"HPTUNE_DEVICE: the GPU cannot be used: {reason} {way_out}") from None
    # its gradients under a mask may be NaN, where a window's tokens are 64 more than a multiple of 128
    # (https://github.com/pytorch/pytorch/issues/196678)
    torch.backends.cuda.enable_cudnn_sdp(False)
    if workers > 1:
        torch.cuda.set_per_process_memory_fraction(_SHARED_OUT / workers, device.index)


def _keep_freed_memory() -> None:
    """Have glibc keep what tensors free for the next ones, where this process uses glibc.

    It gives large blocks back to the system, which must then fill every page with zeros before its next use: half
    of a training step's time, in a virtual machine more (a 2.56M model, 64 windows of 64, one thread of an AMD EPYC:
    500 to 1,000 ms a step, and 400 without).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
