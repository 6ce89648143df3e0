"""Training the winner once more, outside of the search: longer, on another seed, on every title that there is."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from model.checkpoint import Checkpoint
from model.config.section import validate
from model.config.train_config import DiagnosticsConfig, TrainConfig
from model.config.yaml_tree import Document
from model.data.corpus import Corpus
from model.data.files import check_writable
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import CheckpointError, ConfigError
from model.hardware import device as devices
from model.training import TrainingRun
from service.settings import Settings
from service.storage.corpus import load_corpus
from service.storage.studies import StudyError
from service.trials import provenance
from service.winner.choice import Winner

On = Literal["train", "all"]
STATE = "state.safetensors"
"""In the folder of a run that has not ended: what the same call goes on from."""
BUDGETS = ("epochs", "tokens", "steps")


@dataclass(frozen=True)
class Request:
    """What is to be trained.

    Attributes:
        overrides: Values by dotted key for the winner's configuration; one budget takes the place of the other two.
        on: `train`, the split that the search has trained on, or `all` titles, which leaves none to measure on.
        from_checkpoint: Begin with the winner's weights, in place of random ones; the schedule begins anew.
    """

    overrides: Mapping[str, Any]
    on: On = "train"
    from_checkpoint: bool = False


def train(
    winner: Winner,
    request: Request,
    settings: Settings,
    folder: Path,
    *,
    watch: Callable[[TrainingRun], None],
    say: Callable[[str], None],
) -> Checkpoint | None:
    """Train, and write the checkpoint to `folder`; None where it was stopped, and the same call goes on with it.

    Args:
        winner: what to train.
        request: what is to be other than in the search.
        settings: where corpus and weights are, and the device.
        folder: for the checkpoint, and for the state after every rung.
        watch: given the run before it starts, so that a signal can stop it.
        say: takes a line for the user.

    Raises:
        UserError: it cannot be trained so, or the folder has another run's state or cannot be written.
        Diverged: training met a non-finite loss or gradient.
    """
    winner.definition.gpt_config("train")
    assert isinstance(winner.config, TrainConfig)
    config = configured(winner.config, request.overrides)
    before = winner.checkpoint(settings) if request.from_checkpoint else None
    _refuse_other_network(config, before)
    if (folder / "checkpoint.json").exists():
        raise StudyError(f"{folder}: has a finished checkpoint; --out names another folder")
    try:
        check_writable(folder)
    except OSError as error:
        raise StudyError(
            f"{folder}: cannot be written: {error.strerror or error}; --out names another"
        ) from None
    corpus = load_corpus(winner.trained_in, settings)
    data = TokenizedCorpus.prepare(corpus, config.tokenizer, cache=settings.cache)
    if request.on == "all":
        if not any(f"training.{budget}" in request.overrides for budget in BUDGETS):
            passes = config.budget_tokens / len(data.split("train").tokens)
            config = configured(config, {"training.epochs": passes})
        data = _of_all_titles(corpus, data, settings.cache)
    run = _begun(folder, config, data, before, devices.choose(settings.device), say)
    config = run.config
    passes = config.budget_tokens / len(data.split("train").tokens)
    say(
        f"training on {run.device.description}, {run.precision.name}: {config.budget_tokens:,} tokens, "
        f"{passes:.3g} passes over {len(data.split('train').tokens):,} of {_titles(request.on)}"
    )
    watch(run)
    for evaluation in run:
        run.save(folder / STATE)
        say(
            f"tokens {evaluation.tokens:>12,}  train_loss {evaluation.train_loss:.4f}  "
            f"val_loss {evaluation.val_loss:.4f}{' (of titles it trains on)' if request.on == 'all' else ''}  "
            f"{evaluation.tokens_per_second:,.0f} tokens/s"
        )
    if not run.finished:
        run.save(folder / STATE)
        return None
    checkpoint = run.checkpoint(
        study=winner.study.study_name,
        trial=winner.trial.number,
        trained_on=request.on,
        begun_from="checkpoint" if request.from_checkpoint else "configuration",
        provenance=provenance.collect(
            device=run.device.description, corpus_fingerprint=data.fingerprint, precision=run.precision.name
        ),
    )
    checkpoint.write(folder)
    (folder / STATE).unlink(missing_ok=True)
    return checkpoint


def configured(config: TrainConfig, overrides: Mapping[str, Any]) -> TrainConfig:
    """`config` with other values, without diagnostics. Raises ConfigError."""
    given = dict(overrides)
    if any(f"training.{budget}" in given for budget in BUDGETS):
        given = {f"training.{budget}": None for budget in BUDGETS} | given
    for key in given:
        if key.startswith(("data.", "tokenizer.", "evaluation.", "diagnostics.")):
            raise ConfigError(
                f"--set {key}: the corpus and how it is measured are the study's, and stay as they are"
            )
    tree = config.model_copy(update={"diagnostics": DiagnosticsConfig()}).model_dump(mode="json")
    return validate(
        Document("the winner's configuration", tree).with_overrides(given, dict.fromkeys(given, "--set")),
        TrainConfig,
    )


def _refuse_other_network(config: TrainConfig, before: Checkpoint | None) -> None:
    if before is None:
        return
    now, then = config.model.model_dump(), before.config.model.model_dump()
    changed = [
        f"model.{key}"
        for key in now
        if now[key] != then[key] and not key.endswith("dropout") and key != "init"
    ]
    if changed:
        raise ConfigError(
            f"--set {changed[0]}: the weights of a checkpoint are of one network; leave out --from-checkpoint"
        )


def _of_all_titles(corpus: Corpus, data: TokenizedCorpus, cache: Path) -> TokenizedCorpus:
    """Every title to train on, cut by the tokenizer of the search; validation titles are among them."""
    everything = replace(corpus, train=corpus.train + corpus.validation + corpus.held_out)
    tokenizer = hashlib.sha256(data.tokenizer.to_json().encode()).hexdigest()[:16]
    return TokenizedCorpus(everything, data.tokenizer, cache / f"tokens-{everything.fingerprint}-{tokenizer}")


def _begun(
    folder: Path,
    config: TrainConfig,
    data: TokenizedCorpus,
    before: Checkpoint | None,
    device: devices.Device,
    say: Callable[[str], None],
) -> TrainingRun:
    state = folder / STATE
    if not state.exists():
        return TrainingRun(config, data, device=device, weights=before.weights if before else None)
    try:
        run = TrainingRun.resumed(state, config, data, device=device)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; it was begun by another call: --out names another folder") from None
    say(f"going on from step {run.step:,} of {run.config.total_steps:,} ({state})")
    return run


def _titles(on: On) -> str:
    return "all titles" if on == "all" else "the search's train split"
