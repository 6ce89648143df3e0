"""Runs of studies in a file, `runs.json`: for tables to replay searches on, and for a search to begin with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.report.record import study_record
from service.settings import Settings
from service.storage.artifact_stores import open_store
from service.storage.database import open_storage
from service.storage.studies import corpus_facts, load_study
from service.study import definition as study_config


def write(settings: Settings, study_names: Sequence[str], path: Path) -> None:
    """Write what studies of one space recorded: one run a line, what was chosen for it and its losses at the rungs."""
    storage, artifacts = open_storage(settings), open_store(settings.artifacts)
    lines, rungs = [], set()
    for name in study_names:
        study, definition = load_study(storage, name, settings)
        for run in study_record.read(study, definition, artifacts).runs:
            if run.state in (study_record.COMPLETE, study_record.DIVERGED):
                losses = [round(row["val_loss"], 5) for row in run.curve]
                values = {key: _rounded(value) for key, value in run.values.items()}
                lines.append([values, losses])
                rungs |= {row["rung_tokens"] for row in run.curve}
    facts = corpus_facts(study)
    head = {
        "studies": study_names,
        "definition": study_config.load(
            path.parent
        ).snapshot(),  # of the folder: without paths of this machine
        "corpus": {key: facts[key] for key in ("source", "fingerprint", "documents", "train_tokens")},
        "rungs": sorted(rungs),
    }
    texts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    listed = ",\n".join(map(json.dumps, lines))
    path.write_text("{" + ",\n".join([*texts, f'"runs": [\n{listed}']) + "\n]}\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
