"""Ways of training that take turns on one machine, and what came of it."""

import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from model.config.counts import flops_per_token, parameter_count
from model.config.train_config import TrainConfig
from tests.benchmarks.speed.shapes import Shape, write_tokens

ROOT = Path(__file__).resolve().parents[3]
WAYS = {
    "ours": "ours",
    "waiting": "ours",
    "compiled": "compiled",
    "seeds": "seeds_way",
    "transformers": "hugging_face",
    "products": "products",
}
"""Contenders and their modules. `waiting` is ours on a GPU without CUDA graphs and queued steps."""
COMPARED = {"cpu": ("ours", "seeds", "transformers", "products")}
COMPARED["cuda"] = ("waiting", *COMPARED["cpu"])
NOT_INSTALLED = "not installed"
WARM_SECONDS = 2.0
"""A first step that took longer was warm for most of its time, and is not repeated before the rounds."""


@dataclass(frozen=True)
class Machine:
    """Where contenders run."""

    device: str
    """`cpu` or `cuda`."""
    threads: int
    """CPU threads of each."""
    transformers: str | None
    """A Python interpreter that has `transformers`; None: there is none."""
    folder: Path
    """For the tokens that they train on."""


class ContenderEndedError(Exception):
    """A contender's process is gone."""


class Process:
    """A contender in a process of its own; leaving its context ends it."""

    def __init__(self, name: str, shape: Shape, method: str, machine: Machine, *, environment=()):
        job = {
            "way": WAYS[name],
            "shape": asdict(shape),
            "method": method,
            "tokens": str(write_tokens(shape, machine.folder)),
            "device": machine.device,
            "threads": machine.threads,
        }
        python = machine.transformers if name == "transformers" else sys.executable
        graphs = {"HPTUNE_CUDA_GRAPHS": "0" if name == "waiting" else "1"}
        self.name = name
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            [python, "-m", "tests.benchmarks.speed.contender", json.dumps(job)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(job["threads"]), **graphs, **dict(environment)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def wait_for_first_step(self) -> dict[str, Any]:
        """What it is, with `startup_seconds`: from the start of the process to the end of its first step."""
        facts = self.answer()
        return {"startup_seconds": facts.pop("first_step_at") - self._started} | facts

    def send(self, do: str, **request: Any) -> None:
        """Ask for something, without waiting for it."""
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")

    def answer(self) -> dict[str, Any]:
        """The next answer."""
        line = self._process.stdout.readline()
        if not line:
            raise ContenderEndedError(f"{self.name} ended with status {self._process.wait()}")
        return json.loads(line)

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to a request."""
        self.send(do, **request)
        return self.answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):  # it is gone, and something is left that it did not read
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def has_transformers(python: str | None) -> bool:
    """Whether this interpreter is there and could import it."""
    if python is None or not Path(python).exists():
        return False
    asked = subprocess.run([python, "-c", "import transformers"], stderr=subprocess.DEVNULL, check=False)
    return asked.returncode == 0


def compare(
    shape: Shape, method: str, machine: Machine, *, seconds: float, turn_seconds: float
) -> dict[str, Any]:
    """All ways of training this shape by this method, in rounds, one after the other in each.

    Args:
        shape: what is trained.
        method: one of `METHODS`.
        machine: where.
        seconds: rounds begin until so many have passed, three at least.
        turn_seconds: of steps that each takes in a round, one at least.
    """
    record: dict[str, Any] = {
        "tokens_per_step": shape.tokens_per_step,
        "parameters": parameter_count(TrainConfig.model_validate(shape.tree(method))),
        "flops_per_token": flops_per_token(TrainConfig.model_validate(shape.tree(method))),
        "trial_steps": shape.trial_steps,
        "machine": machine_name(machine.device),
        "threads": machine.threads,
        "contenders": {},
    }
    found = record["contenders"]
    with ExitStack() as stack:
        processes: dict[str, Process] = {}
        for name in COMPARED[machine.device]:
            if name == "transformers" and machine.transformers is None:
                found[name] = {"missing": NOT_INSTALLED}
                continue
            processes[name] = stack.enter_context(Process(name, shape, method, machine))
            if machine.device == "cpu":  # beside a GPU there are cores for all of them to start at once
                found[name] = processes[name].wait_for_first_step()
        for name in processes.keys() - found.keys():
            found[name] = processes[name].wait_for_first_step()
        turns = _turns(processes, found, method)
        first = {name: found.get(name, {}).get("first_step_seconds", 0.0) for name in turns}
        taken = take_turns(turns, first, seconds=seconds, turn_seconds=turn_seconds)
        for turn, step_seconds in taken.items():
            found.setdefault(turn, {})["step_seconds"] = step_seconds
        for name in processes.keys() - {"products"}:
            found[name]["peak_memory_bytes"] = processes[name].ask("peak_memory")["bytes"]
        steps = max(1, min(10, math.ceil(turn_seconds / statistics.median(taken["ours"]))))
        # a replayed graph says nothing of the operators that its kernels are from, which are the same without it
        profiled = {"ours": processes.get("waiting", processes["ours"])}
        if method == "adamw":  # those of the others under ASAM would say nothing new, and cost the most
            profiled |= {name: processes[name] for name in ("seeds", "transformers") if name in processes}
        for name, process in profiled.items():
            found[name]["profile"] = process.ask("profile", number=steps)
        if method == "adamw":
            found["ours"]["evaluation_seconds"] = processes["ours"].ask("evaluate")["seconds"]
        found["ours"]["next_trial_seconds"] = processes["ours"].ask("next_trial")["seconds"]
    return record


def machine_name(device: str) -> str:
    """The name of the processor or of the GPU, for the page."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cores = f"{len(os.sched_getaffinity(0))} cores"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {cores}"
    return f"{platform.machine()}, {cores}"


def _turns(processes, found, method):
    """By name, the process and the options of its steps. Products are known by their precision."""
    turns = {name: (process, {}) for name, process in processes.items() if name != "products"}
    # the products of a model do not depend on the method: those in full precision, which take long, once
    precisions = {found["ours"]["precision"], *(["fp32"] if method == "adamw" else [])}
    for precision in sorted(precisions):
        turns[f"products {precision}"] = processes["products"], {"precision": precision}
    return turns


def take_turns(turns, first, *, seconds: float, turn_seconds: float) -> dict[str, list[float]]:
    """Seconds a step of every round, by name; `first` has those of first steps. The order moves on with the rounds."""
    numbers = {}
    for name, (process, options) in turns.items():
        once = first[name]
        if once < WARM_SECONDS:
            process.ask("steps", number=1, **options)
            once = process.ask("steps", number=1, **options)["seconds"]
        numbers[name] = max(1, math.ceil(turn_seconds / once))
    taken: dict[str, list[float]] = {name: [] for name in turns}
    order = list(turns)
    started = time.perf_counter()
    while len(taken[order[0]]) < 3 or time.perf_counter() - started < seconds:
        for name in order:
            process, options = turns[name]
            took = process.ask("steps", number=numbers[name], **options)["seconds"]
            taken[name].append(took / numbers[name])
        order = order[1:] + order[:1]
    return taken
