"""Where the time of a step goes: torch's profile, sorted into phases and kinds of work.

An operator is sorted by its name and those that it runs within. On a GPU its time is that of its kernels, on a CPU its
own.
"""

import re
from collections import Counter

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function

PHASES = ("data", "forward", "backward", "optimizer", "other")
STEP = "a step of training"
KINDS = (
    # the first that fits the operator or one around it
    ("data", r"^data$"),
    ("optimizer", r"^optimizer$|Optimizer\.|_foreach|_fused_adam|linalg_vector_norm"),
    ("loss", r"log_?softmax|nll_?loss|cross_?entropy|logsumexp"),
    ("dropout", r"dropout"),
    ("casts and copies", r"^aten::(copy_|_to_copy|to|clone|cat|contiguous)$"),
    ("attention", r"bmm|softmax|masked_fill|attention|flash|tril"),
    (
        "dropout",
        r"random_|bernoulli|^aten::(ge|mul|mul_)$|^MulBackward",
    ),  # nothing else multiplies in GPT-2's block
    ("normalisation", r"layer_?norm|rms_?norm"),
    ("activation", r"gelu|relu|silu"),
    ("matrix products", r"addmm|^aten::mm$|^MmBackward|^aten::(linear|matmul)$|gemm"),
    ("embedding", r"embedding"),
)
_PATTERNS = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in KINDS]


def kind_of(names: list[str]) -> str:
    """The kind of work of an operator, from its name and those around it, innermost first.

    A copy is one by its own name alone: what is around it copies only to do something else.
    """
    for kind, pattern in _PATTERNS:
        looked_at = names[:1] if kind == "casts and copies" else names
        if any(
            pattern.search(name.removeprefix("autograd::engine::evaluate_function: ")) for name in looked_at
        ):
            return kind
    return "Python and launching" if names == [STEP] else "residual and other"


def phase_of(names: list[str], kind: str) -> str:
    """The phase of a step that an operator belongs to."""
    if kind in ("data", "optimizer"):
        return kind
    if any(name.startswith("autograd::engine") for name in names):
        return "backward"
    return "other" if names == [STEP] else "forward"


def profile(take_steps, number: int, *, cuda: bool) -> dict:
    """Seconds a step by phase and by kind, all of them together, and the table of the 25 dearest operators."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(number):
            with record_function(STEP):
                take_steps(1)
        if cuda:
            torch.cuda.synchronize()
    phases, kinds, kernels = Counter(), Counter(), 0.0
    for event in profiler.events():
        if event.device_type != DeviceType.CPU:
            # what record_function draws on the device's time line, under its own name, is no kernel
            kernels += 0 if event.is_user_annotation else event.self_device_time_total
            continue
        names = _chain(event)
        launched = sum(kernel.duration for kernel in event.kernels if kernel.name != event.name)
        microseconds = launched if cuda else event.self_cpu_time_total
        kind = kind_of(names)
        kinds[kind] += microseconds
        phases[phase_of(names, kind)] += microseconds
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60)
    per_step = 1e-6 / number
    return {
        "phases": {name: phases[name] * per_step for name in PHASES},
        "kinds": {name: value * per_step for name, value in kinds.most_common()},
        "seconds": sum(phases.values()) * per_step,
        "kernel_seconds": kernels * per_step if cuda else None,
        "table": table,
    }


def _chain(event) -> list[str]:
    """The names of an operator and of all it runs within."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names
