"""Every figure of a training run that a report can show: its definition, unit, split and instant.

`FIGURES` is the registry by name; `metric(name)` looks a name up, also one of a family such as
`grad_norm/blocks.0`. `service.report.record.measured` computes them.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from model.errors import ConfigError

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Metric:
    """What a name stands for."""

    name: str
    definition: str
    unit: str
    split: str
    """`validation`, `train`, or empty where no data is involved."""
    instant: str
    """When it is measured, and what it is a mean, median or largest value of."""
    better: Better | None = None
    """Which direction is an improvement; None where neither is."""
    exact: bool = False
    """Follows from the configuration: the same for every seed, so that one run shows it."""

    @property
    def label(self) -> str:
        """The name with its unit, where the name does not say it: `val_loss, nats/char`, but `train_seconds`."""
        said = not self.unit or self.name.endswith(("seconds", "_per_second", "_bytes"))
        return self.name if said else f"{self.name}, {self.unit}"


_LAST = "after the last update"
_WHOLE = "whole run"
_STEPS = "median of the measured steps"
_LARGEST = "largest of the measured steps"
_SPREAD = "standard deviation (n - 1) over the measured steps"


def _of_run() -> list[Metric]:
    def of(
        name: str, definition: str, unit: str = "", *, instant: str = _LAST, exact: bool = False
    ) -> Metric:
        return Metric(name, definition, unit, "train", instant, exact=exact)

    return [
        of("parameters", "trainable parameters, a tied head counted once", instant="", exact=True),
        of("tokens_per_step", "batch_size × block_size", "tokens", instant="", exact=True),
        of("rung_tokens", "token count of the last rung, the budget", "tokens", exact=True),
        of("step", "updates done", "steps", exact=True),
        of("tokens", "training tokens seen", "tokens", exact=True),
        of("total_tokens", "training tokens seen", "tokens", exact=True),
        of("epochs", "training tokens seen ÷ tokens of the train split", "passes", exact=True),
        of(
            "passes_per_token",
            "forward passes over each training token, and as many backward: 1, of SAM, ASAM or R-Drop 2, of both 4",
            instant="",
            exact=True,
        ),
        of(
            "flops_per_token",
            "floating-point operations behind one training token, in closed form",
            "FLOP",
            instant="",
            exact=True,
        ),
        of(
            "train_flops",
            "floating-point operations of training, in closed form",
            "FLOP",
            instant=_WHOLE,
            exact=True,
        ),
        of("learning_rate", "of the last update, first parameter group", exact=True),
        of("gradient_norm", "global L2 norm of the gradient before clipping", instant="last update"),
    ]


def _of_validation() -> list[Metric]:
    def of(name: str, definition: str, unit: str = "", better: Better | None = None) -> Metric:
        return Metric(name, definition, unit, "validation", _LAST, better)

    loss, official = (
        "nats ÷ characters of the split, each <eos> counted as 5",
        "a tail of the split counts as loss 0",
    )
    return [
        of("val_loss", f"{loss}; every token is a target", "nats/char", "lower"),
        of("val_loss_official", f"{loss}, as the seeds evaluate: {official}", "nats/char", "lower"),
        replace(of("coverage", "share of the split's tokens that val_loss_official scores"), exact=True),
        of("nats_per_token", "mean loss per token of this run's tokenizer", "nats", "lower"),
        of("perplexity", "exp(nats_per_token)", "", "lower"),
        of("perplexity_per_char", "exp(val_loss)", "", "lower"),
        of("bits_per_byte", "nats ÷ ln 2 ÷ UTF-8 bytes", "bits", "lower"),
        of("accuracy", "share of tokens whose most probable prediction is the target", "", "higher"),
        of("top5_accuracy", "share of tokens whose target is among the five most probable", "", "higher"),
        of("top1_gap", "top5_accuracy - accuracy"),
        of("top5_improvement", "top5_accuracy at the last rung - at the first", "", "higher"),
        of("confidence", "mean probability of the most probable token"),
        of("confidence_gap", "confidence - accuracy; above 0 is over-confident"),
        of("entropy", "mean entropy of the predicted distribution", "nats"),
        of("ece", "expected calibration error: mean |accuracy - confidence| of its bins, by share", "", "lower"),
        Metric(
            "initial_val_nats_per_token", "mean loss per token, where a first rung is so early", "nats",
            "validation", "after the first update",
        ),
    ]  # fmt: skip


def _of_training() -> list[Metric]:
    def of(
        name: str, definition: str, unit: str = "", better: Better | None = None, *, instant: str = _STEPS
    ) -> Metric:
        return Metric(name, definition, unit, "train", instant, better)

    loss = "mean loss per token, dropout on, before the update"
    quarters = "(mean train_loss of the first quarter of the rungs - of the last quarter) ÷ that of the first"
    return [
        of("train_loss", loss, "nats", "lower", instant="mean of the steps since the last rung but one"),
        of("train_loss_final", loss, "nats", "lower", instant="one batch, at the last measured step"),
        of("loss_per_million_tokens", "train_loss ÷ million training tokens; falls by itself with more tokens",
           "nats", "lower", instant=_LAST),
        of("loss_per_context_token", "train_loss ÷ block_size; falls by itself with a longer context",
           "nats", "lower", instant=_LAST),
        of("convergence_improvement", quarters, "", "higher", instant=_WHOLE),
        of("grad_norm", "global L2 norm of the gradient before clipping"),
        of("grad_norm_std", "of grad_norm", "", "lower", instant=_SPREAD),
        of("grad_norm_max", "of grad_norm", "", "lower", instant=_LARGEST),
        of("parameter_norm", "global L2 norm of the parameters, before the update"),
        of("update_norm", "global L2 norm of the update"),
        of("update_to_parameter_ratio", "update_norm ÷ parameter_norm"),
        of("loss_spikes", "steps whose loss stands out from those around it", "steps", "lower", instant=_WHOLE),
        of("nonfinite_events", "steps without a finite loss and gradient, and measured values that are not finite",
           "", "lower", instant=_WHOLE),
    ]  # fmt: skip


def _of_speed() -> list[Metric]:
    def of(name: str, definition: str, unit: str, better: Better, *, instant: str = _WHOLE) -> Metric:
        return Metric(name, definition, unit, "", instant, better)

    return [
        of("train_seconds", "time in training steps", "s", "lower"),
        of("evaluation_seconds", "time in evaluations", "s", "lower"),
        of("seconds", "train_seconds + evaluation_seconds", "s", "lower"),
        of("tokens_per_second", "tokens ÷ train_seconds", "tokens/s", "higher"),
        of("steps_per_second", "updates ÷ train_seconds", "steps/s", "higher"),
        of(
            "step_seconds",
            "time of an update; without diagnostics train_seconds ÷ updates",
            "s",
            "lower",
            instant=_STEPS,
        ),
        of("step_seconds_std", "of the time of an update", "s", "lower", instant=_SPREAD),
        of("data_seconds", "time until a step's batch is on the device", "s", "lower", instant=_STEPS),
        of(
            "flops_per_second",
            "floating-point operations a second in an update",
            "FLOP/s",
            "higher",
            instant=_STEPS,
        ),
        of(
            "utilisation",
            "flops_per_second ÷ what the device does in matrix products",
            "",
            "higher",
            instant=_STEPS,
        ),
        of(
            "peak_memory_bytes",
            "GPU memory allocated; absent on a CPU",
            "bytes",
            "lower",
            instant="largest of the run",
        ),
        of(
            "memory_allocated_bytes",
            "GPU memory allocated, absent on a CPU",
            "bytes",
            "lower",
            instant=_LARGEST,
        ),
        of(
            "memory_reserved_bytes",
            "GPU memory reserved, absent on a CPU",
            "bytes",
            "lower",
            instant=_LARGEST,
        ),
    ]


FIGURES: Mapping[str, Metric] = {
    metric.name: metric for metric in (*_of_validation(), *_of_training(), *_of_run(), *_of_speed())
}
"""Every metric of one name."""

FAMILIES: Mapping[str, Metric] = {
    name: Metric(f"{name}/…", definition, "", "train", _STEPS)
    for name, definition in {
        "grad_norm": "L2 norm of a layer's gradient, before clipping",
        "norm_gain_grad_norm": "L2 norm of the gradient of a layer's normalisation gains",
        "norm_bias_grad_norm": "L2 norm of the gradient of a layer's normalisation biases",
        "effective_step": "quantile over a layer's elements of Adam's lr ÷ (√v̂ + ε)",
        "signal_to_noise": "Adam's |m̂| ÷ (√v̂ + ε) of a layer",
        "activation_rms": "root mean square of the residual stream after a layer",
        "attention_entropy": "entropy of a layer's attention, 1 being uniform",
    }.items()
}
"""Metrics of a layer: the family's name, `/`, and which layer (`first`, `middle`, `last`, or its name)."""


def metric(name: str) -> Metric:
    """What `name` stands for, of `FIGURES` or of a family.

    Raises:
        ConfigError: there is no such metric.
    """
    if name in FIGURES:
        return FIGURES[name]
    family, separator, layer = name.partition("/")
    if separator and layer and family in FAMILIES:
        return replace(FAMILIES[family], name=name)
    near = difflib.get_close_matches(name, [*FIGURES, *FAMILIES], n=3)
    raise ConfigError(f"no metric {name!r}, allowed: {', '.join(near or FIGURES)}")
