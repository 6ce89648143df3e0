"""What diagnostics cost: time of a training step without their code, with them off, and with them on.

    .venv/bin/python -m tests.benchmarks.diagnostics [--rounds 12] [--every 50] [--device auto] [--threads 1]

One process, three runs of the same configuration that take turns, step by step: `bare`, whose step is the loop written
out without a word of diagnostics; `off`; `on`. A round is `every` steps of each, so that one of them is measured, and
ratios are of the same round: what else the machine does hits all three. Writes tests/benchmarks/results/diagnostics.md.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from model.config.train_config import TrainConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from model.hardware import device
from model.network.loss import cross_entropy
from model.optimization.sharpness import take_step
from model.training import TrainingRun
from tests.conftest import WORDS

RESULT = Path(__file__).parent / "results" / "diagnostics.md"
SIZES = {
    "2 layers, width 96, vocabulary 1,000, 16 windows of 64": {
        "tokenizer": {"vocab_size": 1_000},
        "model": {"n_layer": 2, "n_head": 3, "d_model": 96},
        "training": {"batch_size": 16},
    },
    "4 layers, width 192, vocabulary 4,000, 64 windows of 64 (train_config.yaml)": {
        "tokenizer": {"vocab_size": 4_000},
        "model": {"n_layer": 4, "n_head": 3, "d_model": 192},
        "training": {"batch_size": 64},
    },
}


class BareRun(TrainingRun):
    """The training step as it would be if nothing could ever be measured."""

    def _train_step(self):
        started = time.perf_counter()
        config = self.config
        inputs, targets = map(self.device.upload, self.stream.batch(self.step))

        def compute_gradient(second_pass):
            self.device.seed_step(config.seed, self.step, int(second_pass))
            with self.precision.autocast():
                logits = self.model(inputs)
            loss = cross_entropy(logits, targets).sum() / targets.numel()
            self.scaler.scale_loss(loss).backward()
            return torch.zeros((), device=self.device.torch_device) + loss.detach()

        self._set_learning_rate(self.step)
        result = take_step(
            compute_gradient,
            self.optimizers,
            sharpness=self.sharpness,
            scaler=self.scaler,
            clip_norm=config.optimizer.clip_norm,
        )
        self.step += 1
        self._gradient_norm = result.grad_norm
        self._loss_since_rung += result.loss
        self._steps_since_rung += 1
        self._train_seconds += time.perf_counter() - started


def corpus():
    """Sentences of few words with numbers, enough of them for every vocabulary asked for."""
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices(WORDS, k=6)) + f" {rng.randrange(10**6):x} {rng.randrange(10**6)}"
        for _ in range(20_000)
    ]
    return Corpus(
        tuple(texts[:18_000]), tuple(texts[18_000:19_000]), tuple(texts[19_000:]), "words", "file", 0
    )


def one_step(run):
    """Wall time of the next step, in seconds: of all that it does, measuring too."""
    run.device.synchronize()
    started = time.perf_counter()
    run.train_steps(1)
    run.device.synchronize()
    return time.perf_counter() - started


def compare(shape, every, rounds, where, cache):
    """Of every round, seconds a step by kind of run; seconds of a measurement; whether all ended with the same bits."""
    shape = shape | {"training": shape["training"] | {"tokens": 10**9}}
    shapes = {
        "bare": (BareRun, shape),
        "off": (TrainingRun, shape),
        "on": (TrainingRun, shape | {"diagnostics": {"every": every}}),
    }
    configs = {
        name: (kind, TrainConfig.model_validate_json(json.dumps(chosen)))
        for name, (kind, chosen) in shapes.items()
    }
    data = TokenizedCorpus.prepare(corpus(), configs["off"][1].tokenizer, cache=cache)
    runs = {name: kind(config, data, device=where) for name, (kind, config) in configs.items()}
    for run in runs.values():
        run.train_steps(every)  # to warm up
    order = list(runs)
    seconds = []
    for _ in range(rounds):
        sums = dict.fromkeys(runs, 0.0)
        for _ in range(every):
            random.shuffle(order)
            for name in order:
                sums[name] += one_step(runs[name]) / every
        seconds.append(sums)
    assert len(runs["on"].diagnostics) == rounds + 1
    weights = [list(run.model.state_dict().values()) for run in runs.values()]
    same = all(torch.equal(a, b) for others in weights[1:] for a, b in zip(weights[0], others, strict=True))
    measuring = statistics.median(record["diagnostics_seconds"] for record in runs["on"].diagnostics[1:])
    return seconds, measuring, same


def row(name, every, seconds, measuring, same):
    """A line of the table."""
    off = [turn["off"] / turn["bare"] - 1 for turn in seconds]
    on = [turn["on"] / turn["off"] - 1 for turn in seconds]
    step = statistics.median(turn["off"] for turn in seconds)
    shares = " | ".join(
        f"{statistics.median(values):+.2%} ({low:+.2%} to {high:+.2%})"
        for values in (off, on)
        for low, _, high in [statistics.quantiles(values, n=4)]
    )
    measured = f"{1000 * measuring:.1f} ms | {measuring / (every * step):.2%}"
    return f"| {name} | {1000 * step:.1f} ms | {shares} | {measured} | {'yes' if same else 'NO'} |"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", type=int, default=len(SIZES))
    arguments = parser.parse_args()
    where = device.choose(arguments.device, threads=arguments.threads)
    rows = []
    for name, shape in list(SIZES.items())[: arguments.sizes]:
        with tempfile.TemporaryDirectory() as folder:
            outcome = compare(shape, arguments.every, arguments.rounds, where, Path(folder))
        rows.append(row(name, arguments.every, *outcome))
        print(rows[-1], flush=True)
    RESULT.write_text(
        "# What diagnostics cost\n\n"
        f"`python -m tests.benchmarks.diagnostics` on {where.description}, torch {torch.__version__}, {date.today()}: "
        f"{arguments.rounds} rounds of {arguments.every} steps for each run, in one process, step by step in random "
        "order; the wall time of a round, median of the rounds and the quartiles around it. `off` beside the same step "
        f"without any of their code; `diagnostics.every: {arguments.every}` beside `off`; one measurement by its own "
        f"clock, and its share of {arguments.every} steps. Bits: all three runs end with the same weights.\n\n"
        "| run | step, off | off ÷ bare - 1 | on ÷ off - 1 | a measurement | its share | same bits |\n"
        "|---|--:|--:|--:|--:|--:|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main()
