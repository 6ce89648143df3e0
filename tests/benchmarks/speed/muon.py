"""What Muon's update takes of a training step: torch's, and ours by its polynomials, all on the same gradients."""

import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch

from model.config.train_config import TrainConfig
from model.hardware import device as devices
from model.hardware.precision import has_bf16
from model.optimization import optimizer as optimizers
from model.optimization.muon import Muon
from model.optimization.optimizer import Optimizers
from model.optimization.roles import parameters_by_role
from model.training import TrainingRun
from tests.benchmarks.speed.ours import drawn_corpus
from tests.benchmarks.speed.shapes import SHAPES as ALL_SHAPES
from tests.benchmarks.speed.shapes import Shape, write_tokens
from tests.benchmarks.speed.turns import Machine, machine_name

BEFORE = "torch.optim.Muon"
"""What this project had at first; it goes from matrix to matrix, in bf16 wherever it runs."""
WARM_UP = 3
"""Steps in which libraries set themselves up, and graphs are recorded."""
WAYS: dict[str, dict[str, Any]] = {
    f"{name}{', q k v apart' if apart else ''}": {"orthogonalization": name, "split_qkv": apart}
    for name in ("newton_schulz", "polar_express_4", "polar_express_3")
    for apart in (False, True)
}
"""Ours, by what the section `optimizer` says."""
SHAPES = (
    *(ALL_SHAPES[name] for name in ("2.56M", "12.2M", "27.2M")),
    # `ours at 002's size` of studies/champion, as it was published and at its scale `reduced`
    Shape("champion", 6, 512, 8, 256, 16_000, 16, trial_steps=2_000, title_tokens=12),
    Shape("champion-reduced", 6, 128, 8, 128, 4_000, 8, trial_steps=2_000, title_tokens=12),
)


def measure(shape: Shape, machine: Machine, *, rounds: int) -> dict[str, Any]:
    """Seconds of the update by each way, and of the rest of a step, in every round.

    On a CPU it is the process's time on it, which others on the same cores do not lengthen by waiting. On a GPU steps
    are queued, and ours are replayed as CUDA graphs, as in a training run.
    """
    where = devices.choose(machine.device, threads=machine.threads)
    tree = shape.tree("adamw")
    own_way = "newton_schulz"
    tree["optimizer"] = {"name": "muon", "lr": 1e-2, "weight_decay": 0.01, "clip_norm": 1.0, **WAYS[own_way]}
    config = TrainConfig.model_validate(tree)
    with np.load(write_tokens(shape, machine.folder)) as arrays:
        run = TrainingRun(config, drawn_corpus(dict(arrays)), device=where)
    updates: dict[str, Any] = {}
    for name, section in WAYS.items():
        model = deepcopy(run.model)
        made = optimizers.build(model, config.optimizer.model_copy(update=section), device=where.torch_device)
        alone = Optimizers(next(o for o in made._optimizers if isinstance(o, Muon)))
        alone.record_updates(where, gradients_stay=lambda: True)
        updates[name] = model, alone
    model = deepcopy(run.model)
    matrices = parameters_by_role(model)["matrices"]
    updates[BEFORE] = model, Optimizers(torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.01))
    taken: dict[str, list[float]] = {name: [] for name in updates}
    rest: list[float] = []
    method = "step_unless_ended" if where.runs_ahead else "step"
    step = getattr(run.optimizers, method)

    def timed(*values: torch.Tensor) -> None:
        """All ways' updates on the gradients of this step, then the run's own."""
        nonlocal between
        started = clock()
        for name, (model, update) in updates.items():
            for theirs, ours in zip(model.parameters(), run.model.parameters(), strict=True):
                theirs.grad = ours.grad
            taken[name].append(_seconds(partial(getattr(update, method), *values), clock))
        own = _seconds(partial(step, *values), clock)
        # the optimizer's part for what is no matrix belongs to the rest
        between = clock() - started - max(0.0, own - taken[own_way][-1])

    def clock() -> float:
        if where.torch_device.type == "cuda":
            torch.cuda.synchronize(where.torch_device)
            return time.perf_counter()
        return time.process_time()

    between = 0.0
    setattr(run.optimizers, method, timed)
    for _ in range(rounds + WARM_UP):
        whole = _seconds(lambda: run.train_steps(1), clock)
        rest.append(whole - between)
    return {
        "update_seconds": {name: seconds[WARM_UP:] for name, seconds in taken.items()},
        "rest_seconds": rest[WARM_UP:],
        "machine": machine_name(machine.device),
        "threads": machine.threads,
        "precision": run.precision.name,
        "update_dtype": "bf16" if has_bf16(where.torch_device) else "fp32",
    }


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    call()
    return clock() - started
