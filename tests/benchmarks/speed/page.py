"""The page of training speed, from the records of all devices; what has no record is marked as not measured."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.speed.profiles import PHASES
from tests.benchmarks.speed.shapes import METHODS, SHAPES, TITLES
from tests.benchmarks.speed.workers import MPS

DEVICES = {"cpu": "make bench", "cuda": "make bench-gpu"}
"""With what measures them."""
NOT_MEASURED = "not measured"
FLOORS = {
    "cpu": dict.fromkeys(("2.56M", "12.2M", "27.2M"), (3.0, 1.5)),
    "cuda": {"2.56M": (8.0, 3.0), "12.2M": (8.0, 3.0), "27.2M": (3.0, 1.5), "40M": (3.0, 1.5)},
}
"""Times the tokens a second of the seeds' way, and of `transformers`, that are asked for at least."""
UTILISATION = {("cuda", "27.2M"): 0.4, ("cuda", "40M"): 0.4}
"""Of the rate of bf16 products, asked for at least."""
RUNGS = 8

Record = dict[str, Any]


def render(records: dict[str, Record]) -> str:
    """The page, from a tree `{part: {name: record}}` for each device; an empty one has not been measured."""
    sections = "\n".join(_device_section(device, records.get(device, {})) for device in DEVICES)
    return f"""# How fast training is

One process for each way of training a model, all alive at once, taking turns of a few steps: what else the machine does
hits all of them. Times are medians over the rounds; a ratio is of the same round, its median with the quartiles.

- **ours**: `TrainingRun` as a worker runs it, `training.precision: auto`.
- **seeds' way**: what the seed documents' code does, written anew from its description: fp32, masked softmax attention
  written out, all logits at once, AdamW a parameter at a time, the loss fetched at every step. Its allocator is the C
  library's as it comes; ours is told to keep freed memory (`model/hardware/device.py`).
- **`transformers`**: `GPT2LMHeadModel` of the same size with what `Trainer` does in a step: bf16 autocast, its fused
  attention, fused AdamW, clipping, a scheduler. It has no ASAM: the seeds' loop is put around it.
- **products**: the matrix products of the model's linear layers and output head, forward and both backward, alone.
  Utilisation is (`model.config.counts.flops_per_token` × tokens a second) ÷ their rate; attention's products count as
  well.

Tokens are drawn at random, few of them frequent, as in text. Batches: 64 windows; of the 40M 8 windows of 512, its
document's baseline. Made by `make bench` and `make bench-gpu`.

{sections}
## What makes it fast on a CPU, and what did not

What each part buys stands with its figure where it is: freed memory kept (`model/hardware/device.py`), logits of a few
windows at a time (`model/network/loss.py`), attention as plain products (`model/network/attention.py`), dropout masks
of 16 bits (`model/network/dropout.py`), bf16 (`model/hardware/precision.py`). The loss over five seeds stayed where it
was: a model of two layers ended at 2.1570 ± 0.0034 nats a character, 2.1581 ± 0.0055 before.

Tried and left, on a CPU:

- `torch.compile`, whose code draws dropout masks one number at a time: see its table.
- `torch.nn.functional.linear_cross_entropy` for output head and loss, forward and backward in bf16 with one thread: 1.4
  times as long as ours at 2.56M and 2.2 times at 27.2M, with its chunks 1.7 and 3.3 times.

## What makes it fast on a GPU

The column "÷ without graphs" is what the first two buy together:

- all kernels of a gradient launched at once, and those of Muon's update (`model/hardware/cuda_graph.py`);
- a step queued while the one before it runs (`model/optimization/sharpness.py`). What the host has to do for one,
  beside launching the gradient, takes 0.62 ms for the 52 tensors of the 2.56M, 1.04 ms with ASAM (one thread of an AMD
  EPYC);
- batches copied from pinned memory (`model/hardware/device.py`); lists of tensors in a few kernels: Adam, clipping,
  SAM's ascent and return; one wait in an evaluation, in batches of 65,536 tokens (`model/measurement/evaluation.py`);
  torch's fused attention.

`torch.compile` is left out: it needs a C compiler, which the images do not have, compiles anew for every dropout rate
that a search suggests, and is slower than the graphs where it was measured.

What is left at the larger shapes, by the profiles: a fifth to a quarter of the time goes into casts between fp32 and
bf16, of weights at every step and of activations behind every norm, and 13 to 18 % into the loss, in fp32.
"""


def _device_section(device: str, tree: Record) -> str:
    speed = tree.get("speed", {})
    title = {"cpu": "CPU", "cuda": "GPU"}[device]
    parts = [
        f"## {title}",
        _conditions(device, speed),
        _speed_table(device, speed),
        _phases_table(device, speed),
        _cost_table(device, speed),
        _evaluation_table(device, speed),
        _paragraphs(device, speed),
        _compile_table(tree.get("compile", {})),
        _muon_table(tree.get("muon", {})),
        _workers_table(device, tree.get("workers", {})),
        _quickstart(tree.get("quickstart", {}).get("quickstart")),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _conditions(device: str, speed: Record) -> str:
    if not speed:
        return f"{NOT_MEASURED.capitalize()}; `{DEVICES[device]}` does it."
    said = {}
    for name, record in speed.items():
        ours = record["contenders"]["ours"]
        rounds = len(ours["step_seconds"])
        threads = f"{record['threads']} thread{'s' if record['threads'] > 1 else ''}"
        library = record["contenders"]["transformers"].get("library", "no transformers")
        where = f"{record['machine']}, {threads} each, torch {ours['torch']}, {library}, {record['date']}"
        said.setdefault(where, []).append(f"{name} ({ours['precision']}, {rounds} rounds)")
    return "\n".join(f"{where}: {', '.join(names)}." for where, names in said.items())


def _speed_table(device: str, speed: Record) -> str:
    head = ["shape", "method", "tokens/s", "ms a step", "÷ seeds' way", "÷ `transformers`"]
    head += ["÷ without graphs"] if device == "cuda" else []
    head += ["of bf16 products", "of fp32 products"]
    rows = []
    for name, record in _rows(device, speed):
        if record is None:
            rows.append([*_names(name), *[NOT_MEASURED] * (len(head) - 2)])
            continue
        step = _step(record, "ours")
        asked = FLOORS[device].get(name.split()[0], (None, None))
        ratios = [
            _against(record, other, floor)
            for other, floor in zip(("seeds", "transformers"), asked, strict=True)
        ]
        tokens = record["tokens_per_step"] / step
        if device == "cuda":
            ratios.append(_against(record, "waiting", None))
        of_bf16 = _utilisation(record, "bf16", UTILISATION.get((device, name.split()[0])))
        uses = [of_bf16, _utilisation(record, "fp32")]
        rows.append([*_names(name), f"{tokens:,.0f}", _milliseconds(step), *ratios, *uses])
    return _table(head, rows, text_columns=2)


def _against(record: Record, other: str, floor: float | None) -> str:
    """Our tokens a second over another's, and what is asked for."""
    theirs = record["contenders"].get(other, {})
    if "missing" in theirs:
        return theirs["missing"]
    ours = record["contenders"]["ours"]["step_seconds"]
    ratios = [b / a for a, b in zip(ours, theirs["step_seconds"], strict=True)]
    asked = ""
    if floor is not None:
        asked = f", asked {floor:g}{'' if statistics.median(ratios) >= floor else ': MISSED'}"
    return _spread(ratios, asked)


def _utilisation(record: Record, precision: str, floor: float | None = None) -> str:
    products = record["contenders"].get(f"products {precision}")
    if products is None:
        return "-"
    flops = record["flops_per_token"] * record["tokens_per_step"]
    of_products = record["contenders"]["products"]["flops_per_step"]
    ours = record["contenders"]["ours"]["step_seconds"]
    pairs = zip(ours, products["step_seconds"], strict=True)
    middle = statistics.median(flops / step / (of_products / theirs) for step, theirs in pairs)
    rate = of_products / statistics.median(products["step_seconds"])
    asked = "" if floor is None else f", asked {floor:.0%}{'' if middle >= floor else ': MISSED'}"
    return f"{middle:.0%} of {rate / 1e9:,.0f} GFLOP/s{asked}"


def _phases_table(device: str, speed: Record) -> str:
    rows = []
    for name, record in _rows(device, speed, measured=True):
        for way in ("ours", "seeds", "transformers"):
            contender = record["contenders"].get(way, {})
            if "profile" not in contender:
                continue
            step, profile = _step(record, way), contender["profile"]
            # on a CPU the profiler slows small operators down, so that only its shares are used
            scale = 1 if device == "cuda" else step / profile["seconds"]
            kernels = profile["kernel_seconds"]
            launches = [] if device == "cpu" else [f"{step / kernels:.2f}" if kernels else "-"]
            parts = [_milliseconds(profile["phases"][phase] * scale) for phase in PHASES]
            rows.append([*_names(name), way, _milliseconds(step), *parts, *launches])
    if not rows:
        return ""
    of = (
        "shares of a profiled pass; `other` is Python between operators"
        if device == "cpu"
        else "kernels, ours as they are launched without CUDA graphs. The step ÷ the sum of its kernels is to be under "
        "1.5 for the two small shapes"
    )
    head = ["shape", "method", "way", "ms a step", *PHASES, *(["step ÷ kernels"] if device == "cuda" else [])]
    return f"Milliseconds of a step ({of}):\n\n" + _table(head, rows, text_columns=3)


def _cost_table(device: str, speed: Record) -> str:
    ways, rows = ("ours", "seeds", "transformers"), []
    for name, record in _rows(device, speed, measured=True):
        found = record["contenders"]
        starts = [_startup(record, way) for way in ways]
        starts.insert(1, f"{max(0.0, found['ours']['next_trial_seconds']):.2f} s")
        memory = [_shown(found, way, "peak_memory_bytes", "{:,.0f} MiB", scale=2**-20) for way in ways]
        share = found["ours"]["peak_memory_bytes"] / found["seeds"]["peak_memory_bytes"]
        rows.append([*_names(name), *starts, *memory, f"{share:.2f}"])
    if not rows:
        return ""
    head = "shape, method, start-up, next trial, seeds' start-up, `transformers`', memory, seeds' memory, " \
        "`transformers`', ours ÷ seeds'"  # fmt: skip
    what = (
        "what training allocated at most"
        if device == "cuda"
        else "by what training made the process grow, libraries that a first step loads among it (some 90 MiB)"
    )
    return (
        "Start-up is from the start of the process to the end of its first step, imports and all, less what a step "
        "takes later; the next trial is that of the same shape in the same worker, asked under "
        f"{2 if device == 'cuda' else 1} s. Memory is the peak, {what}; half of the seeds' is asked at 27.2M:\n\n"
    ) + _table(head.split(", "), rows, text_columns=2)


def _evaluation_table(device: str, speed: Record) -> str:
    rows = []
    for name, record in _rows(device, speed, measured=True):
        seconds = record["contenders"]["ours"].get("evaluation_seconds")
        if seconds is not None:
            training = record["trial_steps"] * _step(record, "ours")
            cost = [f"{seconds:.2f} s", f"{training:,.0f} s", f"{RUNGS * seconds / training:.1%}"]
            rows.append([*_names(name), *cost])
    if not rows:
        return ""
    head = ["shape", "method", "an evaluation", "training of a trial", f"{RUNGS} evaluations ÷ training"]
    return (
        f"The exact pass over {TITLES:,} titles, of which under 5 % of the training is asked:\n\n"
        + _table(head, rows, text_columns=2)
    )


def _paragraphs(device: str, speed: Record) -> str:
    said = []
    for name, record in _rows(device, speed, measured=True):
        profile = record["contenders"]["ours"]["profile"]
        shares = sorted(profile["kinds"].items(), key=lambda kind: -kind[1])
        listed = [f"{kind} {value / profile['seconds']:.0%}" for kind, value in shares]
        listed = [text for text in listed if not text.endswith(" 0%")]
        path = f"profiles/{device}-{name.replace(' ', '-')}.txt"
        said.append(
            f"**{', '.join(_names(name))}** ({record['parameters']:,} parameters): of "
            f"{_milliseconds(_step(record, 'ours'))} ms a step {', '.join(listed)} ([operators]({path}))."
        )
    return "\n\n".join(["### Where the time goes", *said]) if said else ""


def _compile_table(records: Record) -> str:
    if not records:
        return f"`torch.compile`: {NOT_MEASURED}."
    rows = []
    for shape, record in records.items():
        first = [record[name]["first_step_seconds"] for name in ("plain", "cold", "compiled")]
        pairs = zip(record["plain"]["step_seconds"], record["compiled"]["step_seconds"], strict=True)
        ratios = [plain / compiled for plain, compiled in pairs]
        plain, compiled = (statistics.median(record[name]["step_seconds"]) for name in ("plain", "compiled"))
        steps = [_steps_to_pay(seconds - first[0], plain - compiled) for seconds in first[1:]]
        shown = [f"{value:.1f} s" for value in first]
        rows.append([shape, *shown, _milliseconds(plain), _milliseconds(compiled), _spread(ratios), *steps,
                     f"{record['trial_steps']:,}"])  # fmt: skip
    head = "shape, first step, compiled, from its cache, ms a step, compiled, times as fast, pays after, with cache, "\
        "steps of a trial"  # fmt: skip
    return (
        "### `torch.compile`\n\nAround model and loss, with AdamW; the cache is that of an earlier process with the "
        "very same configuration, dropout rates among it. It pays after so many steps:\n\n"
    ) + _table(head.split(", "), rows, text_columns=1)


def _muon_table(records: Record) -> str:
    if not records:
        return f"Muon's update: {NOT_MEASURED}."
    ways = list(next(iter(records.values()))["update_seconds"])
    rows = []
    for shape, record in records.items():
        rest, cells = record["rest_seconds"], []
        for way in ways:
            update = record["update_seconds"][way]
            share = statistics.median(u / (u + r) for u, r in zip(update, rest, strict=True))
            cells.append(f"{share:.1%} ({_milliseconds(statistics.median(update))})")
        rows.append([shape, _milliseconds(statistics.median(rest)), *cells])
    said = {
        f"{record['machine']}, {record['threads']} thread(s), {record['precision']}, {record['date']}"
        for record in records.values()
    }
    return (
        "### Muon's update\n\nIts share of a step, and its milliseconds, beside those of the rest of the step, all "
        f"ways on the same gradients of the same step ({'; '.join(sorted(said))}). `champion` is the shape of "
        "studies/champion's `ours at 002's size`, 16 windows of 256 tokens, reduced 8 of 128:\n\n"
    ) + _table(["shape", "rest of the step", *ways], rows, text_columns=1)


def _steps_to_pay(cost: float, gain: float) -> str:
    return f"{math.ceil(max(0.0, cost) / gain):,}" if gain > 0 else "never"


def _workers_table(device: str, workers: Record) -> str:
    if not workers:
        return f"Several processes at once: {NOT_MEASURED}."
    rows, gains = [], {}
    for shape, record in workers.items():
        groups = record["groups"]
        alone = statistics.median(groups[0]["tokens_per_second"])
        for group in groups:
            row = [shape, str(group["processes"]), str(group["threads"])]
            if device == "cuda":
                row.append("yes" if group["mps"] else "no")
            if "missing" in group:
                rows.append([*row, group["missing"], "-"])
                continue
            taken = group["tokens_per_second"]
            ratios = [value / alone for value in taken]
            gains.setdefault((group["processes"], group.get("mps", False)), []).append(
                statistics.median(ratios)
            )
            total = f"{statistics.median(taken):,.0f}"
            rows.append([*row, total, _spread(ratios)])
    head = ["shape", "processes", "threads of each", *(["MPS"] if device == "cuda" else []), "tokens/s of all",
            "÷ the first row"]  # fmt: skip
    return (
        "### Several processes at once\n\n"
        + _table(head, rows, text_columns=1)
        + "\n\n"
        + _advice(device, gains)
    )


def _advice(device: str, gains: dict[tuple[int, bool], list[float]]) -> str:
    """What follows for the number of workers."""
    if device == "cpu":
        best = max(gains, key=lambda key: statistics.geometric_mean(gains[key]))
        value = statistics.geometric_mean(gains[best])
        what = "one process with all cores" if best[0] == 1 else "one process for every core"
        return f"Most tokens a second over the shapes: {what}, {value:.2f} times those of one with all cores."
    plain = {count: statistics.geometric_mean(values) for (count, mps), values in gains.items() if not mps}
    most = max(plain.values())
    enough = min(count for count, value in plain.items() if value >= 0.95 * most)
    listed = ", ".join(f"{count}: {value:.2f}" for count, value in sorted(plain.items()))
    return (
        "The default of `HPTUNE_WORKERS_PER_GPU` is to be the fewest workers whose tokens a second, as the geometric "
        f"mean over the shapes of the ratio to one worker, come within 5 % of the most, without `{MPS}`, which is not "
        f"there by default ({listed}): {enough} by these figures. More only hold memory, and make every trial later."
    )


def _quickstart(record: Record | None) -> str:
    if record is None:
        return f"A study from end to end: {NOT_MEASURED}."
    states, seconds = record["states"], record["run_seconds"]
    counts = ", ".join(f"{states.count(state)} {state.lower()}" for state in sorted(set(states)))
    return (
        f"### A study from end to end\n\n`quickstart` on an empty storage ({record['date']}): {seconds:.0f} s for "
        f"{len(states)} trials ({counts}), workers' start-up and all, **{seconds / len(states):.1f} s a finished "
        f"trial**; before that {record['create_seconds']:.0f} s to make corpus, tokenizer and study."
    )


def _rows(device: str, speed: Record, *, measured: bool = False) -> list[tuple[str, Any]]:
    """Names and records in the order of the shapes; those that were not measured have None, or are left out."""
    names = [f"{shape} {method}" for shape in SHAPES for method in METHODS]
    names += [name for name in speed if name not in names]
    return [(name, speed.get(name)) for name in names if name in speed or not measured]


def _names(name: str) -> list[str]:
    shape, method = name.split()
    return [shape, {"adamw": "AdamW", "asam": "ASAM"}[method]]


def _step(record: Record, way: str) -> float:
    return statistics.median(record["contenders"][way]["step_seconds"])


def _startup(record: Record, way: str) -> str:
    contender = record["contenders"][way]
    return contender.get("missing") or f"{max(0.0, contender['startup_seconds'] - _step(record, way)):.2f} s"


def _shown(found: Record, way: str, key: str, form: str, *, scale: float = 1.0) -> str:
    contender = found.get(way, {})
    return contender["missing"] if "missing" in contender else form.format(contender[key] * scale)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:.3g}"


def _spread(ratios: Sequence[float], more: str = "") -> str:
    """Their median, with the quartiles and `more` in parentheses."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f}{more})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int) -> str:
    rule = "|" + "---|" * text_columns + "--:|" * (len(head) - text_columns)
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])
