"""What a trial leaves for people to see in the dashboard: its note, its curve and its log.

It is decoration: written once, at the trial's end, and a fault in it costs the trial nothing but itself.
"""

import contextlib
import resource
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import structlog
from optuna.trial import FrozenTrial
from optuna_dashboard.artifact import get_artifact_path

from service import logs
from service.dashboard.curve import curve_svg
from service.dashboard.notes import trial_note
from service.storage import artifacts
from service.storage.artifact_stores import Store
from service.storage.dashboard_private import note_attributes
from service.storage.optuna_private import trial_id_of
from service.storage.studies import DEFINITION
from service.storage.study_storage import set_study_attributes, together
from service.study.parameters import same
from service.study.run_config import RunConfig
from service.study.search_space import leaves
from service.text.words import Words
from service.trials.contract import Run, Training


def show(
    trial: optuna.Trial,
    run: Run | None,
    config: RunConfig,
    *,
    ended: str,
    training: Training,
    words: Words,
    device: str,
    with_titles: bool,
    store: Store,
    log: structlog.stdlib.BoundLogger,
) -> None:
    """Write note, curve and log of a trial that is still running for Optuna.

    Args:
        trial: where to.
        run: its training, if it came so far.
        config: what it was to train.
        ended: why it ended, for people.
        training: what the study trains.
        words: of the study.
        device: what it ran on.
        with_titles: draw titles from the model; a minute for 100 million parameters on a CPU.
        store: the artifact store.
        log: is told of what could not be written.
    """
    evaluations = run.evaluations if run else []

    def write_curve() -> str:
        points = [(evaluation.rung_tokens, evaluation.val_loss) for evaluation in evaluations]
        image = curve_svg(points, budget_tokens=config.budget_tokens, words=words)
        address: str = get_artifact_path(trial, artifacts.attach_text(store, trial, "curve.svg", image))
        return address

    def write_note(curve: str | None) -> None:
        rows = {**training.described(config), "device": device}
        if run:
            rows["device"] += f", {run.arithmetic}" if run.arithmetic else ""
            rows |= run.noted()
        rows["memory"] = _shown_memory([each.as_dict().get("peak_memory_bytes") for each in evaluations])
        if "goes_on_with" in trial.user_attrs:
            rows["resumes"] = f"trial {trial.user_attrs['goes_on_with']}"
        note = trial_note(
            ended=ended,
            config=config.model_dump(mode="json"),
            last=evaluations[-1] if evaluations else None,
            facts=rows,
            changes=_changes(trial.study.user_attrs, config.model_dump(mode="json")),
            titles=run.titles() if run and with_titles else (),
            curve=curve,
            words=words,
        )
        _save_note(trial.study, trial_id_of(trial), note)

    def write_log() -> None:
        lines = logs.of_trial(trial.number)
        if lines:
            artifacts.attach_text(store, trial, "log.jsonl", lines)

    def write() -> None:
        with together(trial):
            curve = tried("curve", write_curve, log) if evaluations else None
            tried("note", lambda: write_note(curve), log)
            tried("log", write_log, log)

    tried("page", write, log)


def show_dead(
    study: optuna.Study, trial: FrozenTrial, *, ended: str, words: Words, log: structlog.stdlib.BoundLogger
) -> None:
    """Write the note of a trial whose worker cannot, from what the storage has of it; `words` are the study's."""

    def write_note() -> None:
        config = trial.user_attrs.get("config", {})
        losses = sorted(trial.intermediate_values.items())
        note = trial_note(
            ended=ended,
            config=config,
            last=None,
            facts={"reached": f"{words.metric} {losses[-1][1]:.4f} after {losses[-1][0]:,} {words.budget}"}
            if losses
            else {},
            changes=_changes(study.user_attrs, config) if config else None,
        )
        _save_note(study, trial_id_of(trial), note)

    tried("note", write_note, log)


_BUDGET_AND_SEED = ("training.tokens", "training.epochs", "training.steps", "seed")
"""The budget is stored in tokens, whatever the base file names; of the seed the arm speaks."""


def _changes(study: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration has other than the study's base, by dotted key."""
    base = dict(leaves(study[DEFINITION]["base"]))
    return {
        key: value
        for key, value in leaves(config)
        if key not in _BUDGET_AND_SEED and key in base and not same(value, base[key])
    }


def _save_note(study: optuna.Study, trial_id: int, note: str) -> None:
    """As the dashboard's own `save_note`, which reads all notes of the study twice: 70 ms with 1,000 trials."""
    set_study_attributes(study, note_attributes(note, trial_id))


def tried(what: str, write: Callable[[], Any], log: structlog.stdlib.BoundLogger) -> Any:
    """What `write` gives; None, with a warning, when it fails: the trial's result matters more."""
    try:
        return write()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning(f"{what} not written", reason=reason[:300])
        return None


def reset_peak_memory() -> None:
    """Count this process's largest memory from now on, where the kernel allows it (Linux, own process)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _shown_memory(peaks: Sequence[int | None]) -> str:
    on_device = [peak for peak in peaks if peak is not None]
    if on_device:
        return f"at most {max(on_device) / 2**20:,.0f} MiB allocated on the GPU"
    return f"at most {_peak_rss_bytes() / 2**20:,.0f} MiB resident in the worker's process"


def _peak_rss_bytes() -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of the process's whole life
