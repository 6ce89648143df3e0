"""How fast training is: against the seed documents' way, Hugging Face `transformers` and the hardware's products.

    make bench                         on the CPU; installs `transformers` outside of the repository
    make bench-gpu                     every GPU row
    .venv/bin/python -m tests.benchmarks.training [--device cpu] [--threads 1] [--shapes 2.56M ...] [--parts speed ...]

Contenders are processes that take turns, a few steps each, so that what else the machine does hits all of them; ratios
are of the same round. Parts: `speed`, also with start-up, memory, evaluation and profiles; `compile`, when
`torch.compile` would pay; `muon`, what its update takes of a step; `workers`, what several processes give together;
`quickstart`, a whole study. Every record is written at once, to tests/benchmarks/results/training-DEVICE.json, and the
page training.md is made from the records of all devices: measuring a part anew leaves the others as they are.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

from service.settings import ROOT, Settings
from service.storage.database import open_storage
from service.storage.studies import load_study
from tests.benchmarks.speed import compiled, muon, page, turns, workers
from tests.benchmarks.speed.shapes import METHODS, SHAPES, TINY
from tests.benchmarks.speed.turns import Machine

RESULTS = Path(__file__).parent / "results"
PARTS = ("speed", "compile", "muon", "workers", "quickstart")


class Records:
    """The measurements on one kind of device in their file, and the page of all of them."""

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device = folder, device
        self.path = folder / f"training-{device}.json"
        self.tree = json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, part: str, name: str, record: dict[str, Any]) -> None:
        """Write a record in the place of its predecessor, its profile as a file of its own, and the page."""
        ours = record.get("contenders", {}).get("ours", {})
        for contender in record.get("contenders", {}).values():
            table = contender.get("profile", {}).pop("table", None)
            if contender is ours:
                path = self.folder / "profiles" / f"{self.device}-{name.replace(' ', '-')}.txt"
                path.parent.mkdir(exist_ok=True)
                path.write_text("".join(line.rstrip() + "\n" for line in table.splitlines()))
        self.tree.setdefault(part, {})[name] = record | {"date": str(date.today())}
        self.path.write_text(json.dumps(self.tree, indent=1) + "\n")
        write_page(self.folder)


def write_page(folder: Path) -> None:
    """Make training.md from the records that are there."""
    found = {}
    for device in page.DEVICES:
        path = folder / f"training-{device}.json"
        found[device] = json.loads(path.read_text()) if path.exists() else {}
    (folder / "training.md").write_text(page.render(found))


def quickstart(device: str) -> dict[str, Any]:
    """Seconds of the study `quickstart` from an empty storage: making it, and finishing its trials."""
    with tempfile.TemporaryDirectory(prefix="hptune-bench-") as folder:
        environment = {
            "HPTUNE_STORAGE_URL": f"sqlite:///{folder}/study.db",
            "HPTUNE_ARTIFACTS": f"{folder}/artifacts",
            "HPTUNE_CACHE": f"{folder}/cache",
            "HPTUNE_CURVES": folder,
            "HPTUNE_DEVICE": device,
        }
        seconds = []
        for verb in (["create", "quickstart"], ["run", "--study", "quickstart"]):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "service", *verb],
                cwd=ROOT, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            seconds.append(time.perf_counter() - started)
        settings = Settings.from_environment(environment)
        trials = load_study(open_storage(settings), "quickstart", settings)[0].get_trials()
    states = [trial.state.name for trial in trials if trial.state.is_finished()]
    return {"create_seconds": seconds[0], "run_seconds": seconds[1], "states": states}


def main(arguments: list[str] | None = None) -> None:
    """Measure what is asked for, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=page.DEVICES, default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each contender")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="default: all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=15.0, help="of rounds for a shape and method")
    parser.add_argument("--turn-seconds", type=float, default=0.5, help="of a contender's turn")
    parser.add_argument(
        "--without-mps", action="store_true", help="several processes share a GPU as they come"
    )
    parser.add_argument("--transformers", metavar="PYTHON", help="an interpreter that has `transformers`")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for records and page")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it works")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda: this machine has no GPU that torch can use")
    shapes = [SHAPES[name] for name in chosen.shapes or SHAPES]
    if chosen.quick:
        shapes, chosen.seconds, chosen.turn_seconds = [TINY], 0.1, 0.01
    python = chosen.transformers if turns.has_transformers(chosen.transformers) else None
    records = Records(chosen.results, chosen.device)
    with tempfile.TemporaryDirectory(prefix="hptune-bench-") as folder:
        machine = Machine(chosen.device, chosen.threads, python, Path(folder))
        if "speed" in chosen.parts:
            for shape in shapes:
                for method in chosen.methods:
                    print(f"speed: {shape.name}, {method}", flush=True)
                    speed = turns.compare(
                        shape, method, machine, seconds=chosen.seconds, turn_seconds=chosen.turn_seconds
                    )
                    records.add("speed", f"{shape.name} {method}", speed)
        if "compile" in chosen.parts:
            for shape in shapes:
                print(f"compile: {shape.name}", flush=True)
                paid = compiled.compare(
                    shape, machine, seconds=chosen.seconds, turn_seconds=chosen.turn_seconds
                )
                records.add("compile", shape.name, paid)
        if "muon" in chosen.parts:
            for shape in shapes if chosen.shapes or chosen.quick else muon.SHAPES:
                print(f"muon: {shape.name}", flush=True)
                taken = muon.measure(shape, machine, rounds=3 if chosen.quick else 12)
                records.add("muon", shape.name, taken)
        if "workers" in chosen.parts:
            together = workers.on_cpu
            if chosen.device == "cuda":
                together = partial(workers.on_gpu, mps=(False,) if chosen.without_mps else (False, True))
            for shape in shapes:
                print(f"workers: {shape.name}", flush=True)
                groups = together(shape, machine, rounds=3, seconds=chosen.seconds / 5)
                records.add("workers", shape.name, {"groups": groups})
        if "quickstart" in chosen.parts:
            print("quickstart", flush=True)
            records.add("quickstart", "quickstart", quickstart(chosen.device))
    print((chosen.results / "training.md").read_text())


if __name__ == "__main__":
    main()
