import os
import subprocess
import sys
import textwrap

import pytest
import torch

from model.errors import ConfigError
from model.hardware.device import Device, choose

CPU = Device(torch.device("cpu"), 1)


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def numbers(seed, step, part):
    CPU.seed_step(seed, step, part)
    return tuple(torch.randint(2**62, (2,)).tolist())


def test_seed_step_is_a_function_of_its_arguments():
    first = numbers(1337, 5, 1)
    torch.rand(10)
    assert numbers(1337, 5, 1) == first


@pytest.mark.parametrize("seed", [0, 1337, 2**40])
def test_seed_step_gives_different_streams_for_neighbours(seed):
    keys = [(seed + i, step, part) for i in range(3) for step in range(60) for part in range(4)]
    assert len({numbers(*key) for key in keys}) == len(keys)


def test_seed_step_gives_unrelated_masks_for_neighbours():
    masks = []
    for step in range(40):
        CPU.seed_step(1337, step, 0)
        masks.append(torch.rand(4096) < 0.5)
    agreement = [(a == b).float().mean().item() for i, a in enumerate(masks) for b in masks[:i]]
    # 780 pairs of 4096 fair coins agree in half of them, with a standard deviation of 1/128: five of them
    assert max(abs(share - 0.5) for share in agreement) < 5 / 128


def test_a_cpu_is_described_with_its_threads_and_has_no_gpu_memory():
    assert choose("cpu", threads=1) == Device(torch.device("cpu"), 1)
    assert choose("cpu", threads=1).description == "CPU, 1 thread"
    assert torch.get_num_threads() == 1
    assert choose("cpu", threads=2).description == "CPU, 2 threads"
    assert torch.get_num_threads() == 2
    device = choose("cpu")
    device.synchronize()
    assert device.peak_memory_bytes() is None


def test_threads_come_from_the_environment_or_else_from_the_processors_allowed(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose("cpu").threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert choose("cpu").threads == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert choose("cpu").threads == len(os.sched_getaffinity(0))


def test_auto_is_a_gpu_where_there_is_one():
    assert choose("auto").torch_device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "", "mps", "meta", "cuda:x", "cpu:one", "cuda:99"])
def test_a_name_that_is_no_device_here_is_refused_in_one_line(name):
    with pytest.raises(ConfigError, match="HPTUNE_DEVICE") as caught:
        choose(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_a_gpu_runs_ahead_and_the_environment_can_forbid_it(monkeypatch):
    assert not choose("cpu").runs_ahead
    gpu = torch.cuda.is_available()
    assert choose("auto").runs_ahead == gpu
    monkeypatch.setenv("HPTUNE_CUDA_GRAPHS", "0")
    assert not choose("auto").runs_ahead
    monkeypatch.setenv("HPTUNE_CUDA_GRAPHS", "no")
    with pytest.raises(ConfigError, match=r"HPTUNE_CUDA_GRAPHS: given 'no', allowed: 0, 1$"):
        choose("cpu")


@pytest.fixture
def one_gpu(monkeypatch):
    """As torch has it on a machine with a GPU, as far as `choose` looks."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_a_driver_that_is_too_old_is_told_and_the_cpu_does_not_take_its_place(one_gpu, monkeypatch, name):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nUpdate it.")

    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^HPTUNE_DEVICE: .*driver on your system is too old") as caught:
        choose(name)
    assert "\n" not in str(caught.value)


def test_a_gpu_computes_attention_without_cudnn(one_gpu):
    assert torch.backends.cuda.cudnn_sdp_enabled()
    assert choose("auto").torch_device.type == "cuda"
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_workers_that_share_a_gpu_share_its_memory(one_gpu, monkeypatch):
    shares = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: shares.append(given))
    choose("cuda")
    choose("cuda", workers=2)
    choose("cuda:0", workers=3)
    assert shares == [(0.45, None), (pytest.approx(0.3), 0)]


def test_a_cpu_answers_and_has_no_memory_of_its_own_to_give_back():
    assert CPU.answers()
    CPU.free_memory()


@pytest.mark.parametrize("chosen", [False, True])
def test_on_a_cpu_memory_that_was_freed_is_used_again(chosen):
    # faults of the last of many tensors of 64 MiB, 16,384 pages, each freed before the next one
    program = f"""
        import resource, torch
        from model.hardware import device
        if {chosen}:
            device.choose("cpu", threads=1)
        for _ in range(60):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(16 * 2**20)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    faults = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if not chosen and faults < 16_000:
        pytest.skip("this C library keeps freed memory by itself")
    assert (faults < 100) == chosen
