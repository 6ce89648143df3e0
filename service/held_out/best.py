"""Scoring a study's best checkpoints on the held-out titles; `confirmed` scores its confirmed winner."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from model.checkpoint import Checkpoint
from model.config.counts import parameter_count
from model.data.corpus import Corpus
from model.data.tokenized_corpus import encode_split
from model.hardware import precision
from model.hardware.device import Device
from model.measurement.evaluation import SplitScore, score_split
from model.measurement.titles import TITLES, generate_titles
from model.network.gpt import GPT
from service.storage.artifact_stores import Store
from service.storage.artifacts import has_weights, read_checkpoint
from service.storage.ranking import ranked_own_trials
from service.storage.studies import StudyError
from service.text.files import write_both
from service.text.grid import Grid
from service.text.markdown import escaped

READS = "held_out_reads"
"""Study attribute: when the held-out split was read, and for which trials."""


RESAMPLES = 2_000


@dataclass(frozen=True)
class HeldOutScore:
    """A checkpoint on the held-out split."""

    trial: int
    parameters: int
    val_loss: float
    """Of the search, on the validation split; it chose the trial and is therefore flattered."""
    held_out_loss: float
    """Nats per character over the whole split, defined as `val_loss`."""
    interval: tuple[float, float]
    """95 % bootstrap interval of `held_out_loss` over titles."""
    perplexity_per_char: float
    bits_per_byte: float
    titles: tuple[str, ...]
    """Generated, temperature 0.8, one seed for every checkpoint."""


def evaluate(
    study: optuna.Study, store: Store, corpus: Corpus, *, top: int, device: Device
) -> list[HeldOutScore]:
    """The best `top` trials that have weights, on the held-out titles; the caller records the reading.

    Raises:
        StudyError: no complete trial has a checkpoint in the store, or the store cannot be read.
        CheckpointError: one is truncated or foreign.
    """
    with_weights = (trial for trial in ranked_own_trials(study) if has_weights(store, trial))
    with looking_into(store):
        finalists = list(itertools.islice(with_weights, top))
    if not finalists:
        raise StudyError(
            f"study {study.study_name!r} has no checkpoint in {store}; run trials first, "
            "or point HPTUNE_ARTIFACTS to where they are"
        )
    checkpoints = [read_checkpoint(store, trial) for trial in finalists]
    scores = []
    for trial, checkpoint in zip(finalists, checkpoints, strict=True):
        model, score = score_checkpoint(checkpoint, corpus, device)
        assert trial.value is not None
        scores.append(
            HeldOutScore(
                trial=trial.number,
                parameters=parameter_count(checkpoint.config),
                val_loss=trial.value,
                held_out_loss=score.loss_per_character,
                interval=bootstrap_interval(score.title_nats, score.title_characters),
                perplexity_per_char=float(np.exp(score.loss_per_character)),
                bits_per_byte=score.bits_per_byte,
                titles=generate_titles(model, checkpoint.tokenizer, TITLES),
            )
        )
    return scores


@contextlib.contextmanager
def looking_into(store: Store) -> Iterator[None]:
    """Where checkpoints are looked for: says it in the user's words if the store cannot be read.

    Raises:
        StudyError: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise StudyError(f"{store}: checkpoints cannot be read: {error.strerror or error}") from None


def record_reading(study: optuna.Study, **of: Any) -> None:
    """Enter into the study that its held-out split has been read now, and for what."""
    reading = {"when": datetime.now(UTC).isoformat(timespec="seconds"), **of}
    study.set_user_attr(READS, [*study.user_attrs.get(READS, []), reading])


def score_checkpoint(checkpoint: Checkpoint, corpus: Corpus, device: Device) -> tuple[GPT, SplitScore]:
    """The model on the device, and its exact pass over the held-out split in fp32."""
    model = checkpoint.model().to(device.torch_device)
    return model, score_split(
        model,
        encode_split(checkpoint.tokenizer, corpus.held_out),
        eos_id=checkpoint.tokenizer.eos_id,
        evaluation=checkpoint.config.evaluation,
        precision=precision.choose("fp32", device.torch_device),
    )


def bootstrap_interval(
    title_nats: NDArray[np.float64],
    title_characters: NDArray[np.int64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the loss over samples of titles drawn with replacement.

    The percentile bootstrap of a ratio, sum of nats ÷ sum of characters (Efron and Tibshirani 1993, section
    13.3). It covers the choice of titles, not of seeds or configurations.
    """
    generator = np.random.default_rng(seed)
    titles = len(title_nats)
    losses: NDArray[np.float64] = np.empty(resamples)
    for i in range(resamples):
        drawn = generator.integers(titles, size=titles)
        losses[i] = title_nats[drawn].sum() / title_characters[drawn].sum()
    low, high = np.quantile(losses, (0.025, 0.975))
    return float(low), float(high)


def table(scores: Sequence[HeldOutScore]) -> Grid:
    """One row a checkpoint."""
    headings = (
        "trial", "parameters", "val_loss", "held-out loss", "95 % interval", "perplexity per char", "bits/byte",
    )  # fmt: skip
    rows = tuple(
        (
            str(score.trial),
            f"{score.parameters:,}",
            f"{score.val_loss:.4f}",
            f"{score.held_out_loss:.4f}",
            f"{score.interval[0]:.4f}–{score.interval[1]:.4f}",
            f"{score.perplexity_per_char:.4f}",
            f"{score.bits_per_byte:.4f}",
        )
        for score in scores
    )
    return Grid(headings, rows)


def write(scores: Sequence[HeldOutScore], folder: Path, facts: dict[str, Any]) -> tuple[Path, Path]:
    """The scores as `evaluation.md` and `evaluation.json` in `folder`."""
    markdown = f"# Study {facts['study']} on held-out titles\n\n"
    source = escaped(facts["source"])
    markdown += f"{facts['held_out_documents']:,} titles of: {source}. Losses in nats per character.\n\n"
    markdown += table(scores).as_markdown()
    for score in scores:
        markdown += f"\nTitles drawn from trial {score.trial}:\n\n"
        markdown += "".join(f"- {escaped(title)}\n" for title in score.titles)
    content = {**facts, "checkpoints": [asdict(score) for score in scores]}
    return write_both(folder, "evaluation", markdown, content)
