"""This project's training run with `torch.compile` around model and loss, and when that pays."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from model.network import loss
from tests.benchmarks.speed import ours
from tests.benchmarks.speed.shapes import Shape
from tests.benchmarks.speed.turns import Machine, Process, take_turns


class Way(ours.Way):
    """`ours`, compiled at its first step."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.run.model.hidden = torch.compile(self.run.model.hidden)
        loss.summed_loss = torch.compile(loss.summed_loss)


def compare(shape: Shape, machine: Machine, *, seconds: float, turn_seconds: float) -> dict[str, object]:
    """Steps of `ours` with and without it in turns; the first ones with nothing compiled yet, and from the cache."""
    with TemporaryDirectory(dir=machine.folder) as folder:
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "compiled")}
        with Process("compiled", shape, "adamw", machine, environment=environment) as cold:
            found = {"cold": cold.wait_for_first_step()}
        with (
            Process("ours", shape, "adamw", machine) as plain,
            Process("compiled", shape, "adamw", machine, environment=environment) as compiled,
        ):
            processes = {"plain": plain, "compiled": compiled}
            for name, process in processes.items():
                found[name] = process.wait_for_first_step()
            turns = {name: (process, {}) for name, process in processes.items()}
            first = {name: found[name]["first_step_seconds"] for name in processes}
            taken = take_turns(turns, first, seconds=seconds, turn_seconds=turn_seconds)
    for name, step_seconds in taken.items():
        found[name]["step_seconds"] = step_seconds
    return {"trial_steps": shape.trial_steps, **found}
