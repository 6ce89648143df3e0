"""A study of three arms and three seeds whose trials are written by hand, and records made of plain numbers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from service.report.record.study_record import Arm, Run, StudyRecord, read
from service.storage import artifacts
from service.storage.artifact_stores import Store, open_store
from service.storage.database import open_storage
from service.storage.ownership import generation_of, slot_mark
from service.storage.studies import load_study
from tests.conftest import TinyStudy, tiny_study

DESIGN = """\
baseline: false
design:
  list:
    - {arm: slow, optimizer.lr: 1.0e-4}
    - {arm: fast, optimizer.lr: 1.0e-3}
    - {arm: wild, optimizer.lr: 1.0e-2}
  seeds: [1, 2, 3]
"""
FINAL = {"slow": (2.0, 2.2, 2.4), "fast": (1.5, 1.6, 1.7)}
RUNGS = (3000, 6000, 9000)


def evaluation(
    rung: int, val_loss: float, *, rate: float = 1000.0, train_loss: float = 3.0
) -> dict[str, Any]:
    """The fields of an `Evaluation`, at `rate` tokens a second and 128 tokens a step."""
    return {
        "rung_tokens": rung, "step": rung // 128, "tokens": rung // 128 * 128, "val_loss": val_loss,
        "nats_per_token": 2 * val_loss, "perplexity": 7.0, "perplexity_per_char": 3.0, "bits_per_byte": val_loss / 0.7,
        "train_loss": train_loss, "learning_rate": 0.001, "gradient_norm": 0.5, "train_seconds": rung / rate,
        "evaluation_seconds": 0.25, "tokens_per_second": rate, "peak_memory_bytes": None,
        "val_loss_official": None, "coverage": None,
    }  # fmt: skip


def add_trial(
    study: optuna.Study,
    store: Store,
    config: Mapping[str, Any],
    *,
    arm: str,
    losses: tuple[float, ...],
    state: TrialState = TrialState.COMPLETE,
    ended: str = "complete",
    diagnostics: tuple[dict[str, Any], ...] = (),
    **attributes: Any,
) -> int:
    """A trial as `service.trials.objective` leaves it: one of another state than COMPLETE without files and last
    figures."""
    facts = {
        "arm": arm,
        "config": config,
        "parameters": 9000,
        "provenance": {"device": "a CPU"},
        **slot_mark(generation_of(study), len(study.get_trials(deepcopy=False))),
        **attributes,
    }
    template = create_trial(state=TrialState.RUNNING, user_attrs=facts)
    trial = optuna.Trial(study, study._storage.create_new_trial(study._study_id, template))
    curve = [evaluation(rung, loss) for rung, loss in zip(RUNGS, losses, strict=False)]
    for row in curve:
        trial.report(row["val_loss"], row["rung_tokens"])
    if state == TrialState.COMPLETE:
        artifacts.attach_text(store, trial, "curve.jsonl", "".join(json.dumps(row) + "\n" for row in curve))
        for key, value in curve[-1].items():
            if value is not None:
                trial.set_user_attr(key, value)
        if diagnostics:
            text = "".join(json.dumps(line) + "\n" for line in diagnostics)
            artifacts.attach_text(store, trial, "diagnostics.jsonl", text)
    trial.set_user_attr("ended", ended)
    study.tell(trial.number, losses[-1] if state == TrialState.COMPLETE else None, state=state)
    return trial.number


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> TinyStudy:
    """slow and fast complete with all seeds; wild with seed 1, diverged with seed 2, taken up again with seed 3."""
    tiny = tiny_study(tmp_path_factory.mktemp("written"))
    tiny.write(DESIGN)
    tiny.create()
    storage = open_storage(tiny.settings)
    study, definition = load_study(storage, "tiny", tiny.settings)
    store = open_store(tiny.settings.artifacts)

    def config(lr: float, seed: int) -> dict[str, Any]:
        values = {"optimizer.lr": lr, "seed": seed}
        return definition.config_for(values).with_tokens(9000).model_dump(mode="json")

    for arm, lr in {"slow": 1e-4, "fast": 1e-3}.items():
        for seed, final in enumerate(FINAL[arm], start=1):
            losses = (final + 0.6, final + 0.2, final)
            add_trial(study, store, config(lr, seed), arm=arm, losses=losses)
    steps = tuple(
        {"kind": "step", "step": step, "tokens": 128 * step, "train_loss": 5.0 - step / 100, "grad_norm": norm,
         "grad_norm/blocks.0": 0.25, "step_seconds": 0.1, "tokens_per_second": 1280.0, "loss_spikes": 0}
        for step, norm in ((10, 1.0), (20, 4.0), (30, None), (40, 2.0))
    )  # fmt: skip
    evaluations = tuple(
        {"kind": "evaluation", "step": rung // 128, "rung_tokens": rung, "accuracy": hits, "top5_accuracy": hits + 0.2,
         "confidence": 0.5, "loss_spikes": 1, "reliability": [{"confidence": 0.5, "accuracy": hits, "share": 1.0}]}
        for rung, hits in zip(RUNGS, (0.1, 0.2, 0.4), strict=True)
    )  # fmt: skip
    more = {"store": store, "arm": "wild"}
    add_trial(
        study, config=config(1e-2, 1), losses=(3.6, 3.2, 3.0), diagnostics=(*steps, *evaluations), **more
    )
    add_trial(
        study, config=config(1e-2, 2), losses=(4.0,), state=TrialState.PRUNED,
        ended="diverged: the loss of step 30 is nan", **more,
    )  # fmt: skip
    cut = add_trial(
        study, config=config(1e-2, 3), losses=(3.9, 3.5), state=TrialState.FAIL, ended="interrupted", **more
    )
    add_trial(study, config=config(1e-2, 3), losses=(3.9, 3.5, 3.4), goes_on_with=cut, **more)
    storage.engine.dispose()
    return tiny


@pytest.fixture(scope="session")
def record(written) -> StudyRecord:
    return read_record(written)


def read_record(tiny: TinyStudy, **arguments: Any) -> StudyRecord:
    storage = open_storage(tiny.settings)
    try:
        study, definition = load_study(storage, "tiny", tiny.settings)
        return read(study, definition, open_store(tiny.settings.artifacts), **arguments)
    finally:
        storage.engine.dispose()


@pytest.fixture(scope="session")
def record_of(record) -> Callable[..., StudyRecord]:
    """Makes a record of arms whose runs have these metrics, each a list with a value a seed."""

    def make(**arms: Mapping[str, list[float]]) -> StudyRecord:
        made = []
        for name, metrics in arms.items():
            count = len(next(iter(metrics.values())))
            values = [{metric: of[i] for metric, of in metrics.items()} for i in range(count)]
            made.append(Arm(name, tuple(run_of(name, seed, figures) for seed, figures in enumerate(values))))
        return replace(record, arms=tuple(made), baseline=made[0].name)

    return make


def run_of(arm: str, seed: int, metrics: Mapping[str, float], **changes: Any) -> Run:
    run = Run(
        trial=seed, arm=arm, seed=seed, state="complete", ended="complete", config={}, metrics=metrics, curve=(),
        steps=(), evaluations=(), parameters=9000, device="a CPU",
    )  # fmt: skip
    return replace(run, **changes)
