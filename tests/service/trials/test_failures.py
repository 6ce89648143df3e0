import errno

import numpy as np
import pytest
import torch
from optuna.trial import TrialState

from model.errors import ConfigError, Diverged, UserError
from service.trials.failures import Interrupted, classify


@pytest.mark.parametrize(
    ("error", "state", "reason", "next_"),
    [
        (Diverged("loss nan at step 3"), TrialState.PRUNED, "diverged: loss nan at step 3", "close"),
        (MemoryError(), TrialState.PRUNED, "out of memory: no message", "close"),
        (
            torch.OutOfMemoryError("CUDA: 2 GiB\nmore"),
            TrialState.PRUNED,
            "out of memory: CUDA: 2 GiB",
            "close",
        ),
        (
            torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"),
            TrialState.PRUNED,
            "out of memory: CUDA error: out of memory",
            "close",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            TrialState.PRUNED,
            "out of memory: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "close",
        ),
        (
            torch.AcceleratorError("CUDA error: invalid argument"),
            TrialState.FAIL,
            "AcceleratorError: CUDA error: invalid argument",
            "retry",
        ),
        (Interrupted(), TrialState.FAIL, "interrupted", "hand back"),
        (UserError("corpus.txt: gone"), TrialState.FAIL, "corpus.txt: gone", "stop"),
        (ConfigError("no bf16 here"), TrialState.FAIL, "no bf16 here", "stop"),
        (RuntimeError("broken\ntrace"), TrialState.FAIL, "RuntimeError: broken", "retry"),
        (OSError(errno.EIO, "disk"), TrialState.FAIL, "OSError: [Errno 5] disk", "retry"),
        (ValueError("x" * 1000), TrialState.FAIL, "ValueError: " + "x" * 300, "retry"),
        (KeyError(), TrialState.FAIL, "KeyError: no message", "retry"),
    ],
)
def test_every_exception_has_a_row(error, state, reason, next_):
    failure = classify(error)
    assert (failure.state, failure.reason, failure.next) == (state, reason, next_)


def test_on_a_device_that_does_not_answer_no_configuration_is_to_blame():
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")
    failure = classify(error, device_answers=False)
    assert (failure.state, failure.next) == (TrialState.FAIL, "restart")
    assert failure.reason == "its device failed: CUDA error: an illegal memory access was encountered"
    assert classify(Interrupted(), device_answers=False).next == "hand back"


@pytest.mark.parametrize("allocate", [np.empty, torch.empty], ids=["numpy", "torch"])
def test_what_the_allocators_of_the_cpu_raise_is_out_of_memory(allocate):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate(10**15)  # 4 or 8 petabytes: beyond a 47-bit address space
    failure = classify(caught.value)
    assert failure.state == TrialState.PRUNED
    assert failure.reason.startswith("out of memory: ")
