"""The figures of one run, computed from what it has left behind: `service.report.record.metrics` defines them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from model.config.counts import flops_per_token, passes_per_token
from model.config.data import TokenizerConfig
from model.config.section import validate
from model.config.train_config import TrainConfig
from model.config.yaml_tree import Document
from service.report.record.metrics import FAMILIES, FIGURES
from service.study.definition import StudyDefinition

Record = Mapping[str, Any]
Reduction = Callable[[Sequence[float]], float]

_OTHER_STEPS: Mapping[str, Reduction] = {
    "memory_allocated_bytes": max,
    "memory_reserved_bytes": max,
    "loss_spikes": lambda counts: counts[-1],
    "nonfinite_events": lambda counts: counts[-1],
}
"""How the measured steps become one figure, where that is not the median."""


def figures(
    *,
    config: Record,
    curve: Sequence[Record],
    noted: Record,
    steps: Sequence[Record],
    evaluations: Sequence[Record],
    parameters: int | None,
    train_tokens: int | None,
) -> dict[str, float | None]:
    """Every metric of a run by name, None where it was not measured.

    Args:
        config: of the run, nested as `train_config.yaml`; may be empty.
        curve: `Evaluation`'s fields at every rung reached.
        noted: further numbers by name, known before those of the curve's last rung.
        steps: diagnostics of the measured steps, in order.
        evaluations: diagnostics of the evaluations, in order.
        parameters: of the model.
        train_tokens: of the train split under the run's tokenizer, where that is known.
    """
    last: Record = curve[-1] if curve else {}
    found: dict[str, float | None] = dict.fromkeys(FIGURES)
    found |= _of_steps(steps)
    found |= {
        name: value for name, value in numbers(evaluations[-1] if evaluations else {}) if name in FIGURES
    }
    found |= {name: value for name, value in numbers({**noted, **last}) if name in FIGURES}
    peaks = [row["peak_memory_bytes"] for row in curve if row.get("peak_memory_bytes") is not None]
    found["peak_memory_bytes"] = max(peaks, default=None)
    found["parameters"] = parameters
    found["total_tokens"] = last.get("tokens")
    found["epochs"] = _ratio(last.get("tokens"), train_tokens)
    found |= _speed(last, steps)
    found |= _of_settings(config, last)
    found |= _of_predictions(evaluations)
    found["initial_val_nats_per_token"] = next(
        (row["nats_per_token"] for row in curve[:1] if row.get("step", 2) <= 1), None
    )
    found["convergence_improvement"] = convergence_improvement(
        [row["train_loss"] for row in curve if "train_loss" in row]
    )
    return found


def train_tokens(
    attributes: Mapping[str, Any], definition: StudyDefinition, facts: Mapping[str, Any]
) -> int | None:
    """Of the train split under the run's own tokenizer, where that is known."""
    noted: int | None = attributes.get("train_tokens")
    if noted is not None or "config" not in attributes or definition.own_run is not None:
        return noted
    own = TokenizerConfig.model_validate(attributes["config"]["tokenizer"])
    return facts["train_tokens"] if own == definition.gpt_config("a tokenizer").tokenizer else None


def convergence_improvement(losses: Sequence[float]) -> float | None:
    """(mean of the first quarter − mean of the last) ÷ mean of the first; None below four losses.

    As the notebook of seed documents 000 and 001 computes it on the losses of single batches: ⌊n/4⌋ losses at the
    start, ⌈n/4⌉ at the end.
    """
    n = len(losses)
    if n < 4:
        return None
    first = float(np.mean(losses[: n // 4]))
    return (first - float(np.mean(losses[-n // 4 :]))) / first


def _of_steps(steps: Sequence[Record]) -> dict[str, float | None]:
    columns: dict[str, list[float]] = {}
    for step in steps:
        for name, value in numbers(step):
            columns.setdefault(name, []).append(value)
    found: dict[str, float | None] = {
        name: float(_OTHER_STEPS.get(name, np.median)(values))
        for name, values in columns.items()
        if name in FIGURES or name.split("/")[0] in FAMILIES
    }
    # named as an Evaluation's fields, which cover all steps of the run
    for name in ("tokens", "learning_rate", "train_loss", "tokens_per_second", "step"):
        found.pop(name, None)
    norms = columns.get("grad_norm", [])
    found["grad_norm_std"] = float(np.std(norms, ddof=1)) if len(norms) > 1 else None
    found["grad_norm_max"] = float(np.max(norms)) if norms else None
    found["train_loss_final"] = columns.get("train_loss", [None])[-1]
    return found


def _speed(last: Record, steps: Sequence[Record]) -> dict[str, float | None]:
    seconds = [step["step_seconds"] for step in steps if "step_seconds" in step]
    found: dict[str, float | None] = {
        "step_seconds": float(np.median(seconds))
        if seconds
        else _ratio(last.get("train_seconds"), last.get("step")),
        "step_seconds_std": float(np.std(seconds, ddof=1)) if len(seconds) > 1 else None,
        "steps_per_second": _ratio(last.get("step"), last.get("train_seconds")),
    }
    if "train_seconds" in last:
        # of own training code the seconds have its evaluations in them
        found["seconds"] = last["train_seconds"] + last.get("evaluation_seconds", 0.0)
    return found


def _of_settings(config: Record, last: Record) -> dict[str, float | None]:
    if not config:
        return {}
    block = config["model"]["block_size"]
    checked = validate(Document("a trial's configuration", dict(config)), TrainConfig)
    flops = flops_per_token(checked)
    return {
        "passes_per_token": passes_per_token(checked),
        "flops_per_token": flops,
        "train_flops": flops * last["tokens"] if "tokens" in last else None,
        "tokens_per_step": config["training"]["batch_size"] * block,
        "loss_per_million_tokens": _ratio(last.get("train_loss"), last.get("tokens", 0) / 1e6),
        "loss_per_context_token": _ratio(last.get("train_loss"), block),
    }


def _of_predictions(evaluations: Sequence[Record]) -> dict[str, float | None]:
    if not evaluations or "top5_accuracy" not in evaluations[-1]:
        return {}
    first, last = evaluations[0], evaluations[-1]
    return {
        "top1_gap": last["top5_accuracy"] - last["accuracy"],
        "top5_improvement": last["top5_accuracy"] - first["top5_accuracy"],
        "confidence_gap": last["confidence"] - last["accuracy"],
    }


def numbers(record: Record) -> list[tuple[str, float]]:
    """What in a record is a number, by name."""
    return [
        (name, value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None
