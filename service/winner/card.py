"""The model card of an exported checkpoint: what it was trained on, for how long, how good it is, and how far to trust
that."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint import Checkpoint
from model.config.counts import flops_per_token, parameter_count
from service.held_out.best import READS
from service.statistics import estimate
from service.storage.studies import corpus_facts
from service.text.commands import verb
from service.text.markdown import escaped, fenced
from service.text.quantities import shown_operations
from service.winner.choice import Winner
from service.winner.configuration import as_difference
from service.winner.hugging_face import why_not_gpt2


@dataclass(frozen=True)
class HeldOut:
    """What `evaluate` has written of a trial, or of the confirmed winner."""

    loss: float
    interval: tuple[float, float]
    documents: int
    reads: int
    seeds: tuple[int, ...] = ()
    """Of a confirmed winner, whose loss is the mean over them."""


def held_out_of(winner: Winner, folder: Path) -> HeldOut | None:
    """The winner's held-out loss in the study's last evaluation, where that is of it and of this corpus."""
    confirmed = winner.trained_in.study_name != winner.study.study_name
    try:
        found = json.loads((folder / f"evaluation{'-confirmed' * confirmed}.json").read_bytes())
        if found["corpus_fingerprint"] != corpus_facts(winner.study)["fingerprint"]:
            return None
        return _of_confirmed(winner, found) if confirmed else _of_trial(winner, found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None  # never evaluated, or by another version


def _of_trial(winner: Winner, found: Mapping[str, Any]) -> HeldOut | None:
    mine = next(c for c in found["checkpoints"] if c["trial"] == winner.trial.number)
    if found["study"] != winner.study.study_name or mine["val_loss"] != winner.trial.value:
        return None
    low, high = mine["interval"]
    return HeldOut(mine["held_out_loss"], (low, high), found["held_out_documents"], found["held_out_reads"])


def _of_confirmed(winner: Winner, found: Mapping[str, Any]) -> HeldOut | None:
    mine = found["winner"]
    measured = {int(seed): loss for seed, loss in mine["val_losses"].items()}
    if found["confirmation"] != winner.trained_in.study_name or not measured.items() <= winner.losses.items():
        return None
    low, high = mine["interval"]
    losses = mine["held_out_losses"]
    seeds = tuple(sorted(map(int, losses)))
    mean = statistics.fmean(losses.values())
    return HeldOut(mean, (low, high), found["held_out_documents"], found["held_out_reads"], seeds)


def card(winner: Winner, checkpoint: Checkpoint, *, held_out: HeldOut | None, name: str) -> str:
    """The card as Markdown, with the lines that the hub reads in front."""
    facts = corpus_facts(winner.study)
    other_code = why_not_gpt2(checkpoint.config.model)
    trust = ", trust_remote_code=True" if other_code else ""
    usage = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{name}"{trust})\n'
        'begun = tokenizer("A title", return_tensors="pt", return_token_type_ids=False)\n'
        "print(tokenizer.decode(model.generate(**begun)[0], skip_special_tokens=True))"
    )
    layout = (
        f"GPT-2's layout has no word for {other_code}; the model is the file `modeling_hptune.py` in this folder."
        if other_code
        else "The weights are in GPT-2's layout."
    )
    sections = [
        f"# {_line(name)}\n\n{escaped(winner.definition.question)}\n\nA GPT of "
        f"{parameter_count(checkpoint.config):,} parameters. {_line(winner.why.capitalize())}.",
        f"{fenced(usage, 'python')}\nThe name is that of this folder: run it beside that, or give its path. "
        f"{layout} Every text begins with `<eos>`, as in training.",
        "## Data\n\n" + _table(_data(facts)),
        "## Training\n\n" + _table(_training(winner, checkpoint, facts)),
        "## Losses\n\nIn nats per character.\n\n" + _table(_losses(winner, checkpoint, held_out)),
        "## What the study changed\n\n" + (as_difference(winner).as_markdown() or "Nothing."),
        "## Configuration\n\n"
        + fenced(json.dumps(checkpoint.config.model_dump(mode="json"), indent=1), "json"),
    ]
    front = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- hptune\n---\n\n"
    return front + "\n\n".join(sections).rstrip() + "\n"


def _data(facts: Mapping[str, Any]) -> dict[str, str]:
    train, validation, held_out = facts["documents"]
    return {
        "source": _line(facts["source"]),
        "fingerprint": f"`{facts['fingerprint']}`",
        "documents": f"{train:,} train, {validation:,} validation, {held_out:,} held-out; "
        f"{facts['duplicates_dropped']:,} duplicates dropped",
        "train split": f"{facts['train_tokens']:,} tokens",
    }


def _training(winner: Winner, checkpoint: Checkpoint, facts: Mapping[str, Any]) -> dict[str, str]:
    config, record = checkpoint.config, checkpoint.record
    evaluation = record.get("evaluation") or {}
    tokens = evaluation.get("tokens", config.budget_tokens)
    found = record.get("provenance", {})
    on = {"train": "train split", "all": "all titles, validation and held-out ones among them"}
    return {
        "study": _line(winner.study.study_name),
        "trial": f"{winner.trial.number} of {_line(winner.trained_in.study_name)}",
        "trained on": on[record.get("trained_on", "train")],
        "budget": f"{tokens:,} tokens, {tokens / facts['train_tokens']:.3g} times the train split",
        "compute": f"{shown_operations(flops_per_token(config) * tokens)} FLOPs",
        "seed": str(config.seed),
        "device": _line(f"{found.get('device', 'unknown')}, {found.get('precision', 'unknown precision')}"),
        "commit": _line(str(found.get("commit"))),
        "python": _line(str(found.get("python"))),
        "versions": _line(", ".join(f"{k} {v}" for k, v in found.get("versions", {}).items())),
    }


def _losses(winner: Winner, checkpoint: Checkpoint, held_out: HeldOut | None) -> dict[str, str]:
    evaluation = checkpoint.record.get("evaluation") or {}
    seen = checkpoint.record.get("trained_on") == "all"
    rows: dict[str, str] = {}
    if evaluation:
        where = "titles it was trained on: no measure" if seen else "of this model, on the validation split"
        rows["val\\_loss"] = f"{evaluation['val_loss']:.4f}, {where}"
        rows["bits per byte"] = f"{evaluation['bits_per_byte']:.4f}"
    measured = estimate(list(winner.losses.values()))
    if measured is not None and measured.interval is not None:
        seeds = ", ".join(map(str, sorted(winner.losses)))
        rows["val\\_loss over seeds"] = (
            f"{measured.mean:.4f}, 95 % interval {measured.low:.4f} to {measured.high:.4f}, "
            f"of its configuration in the study, seeds {seeds}"
        )
    elif not seen:
        rows["over seeds"] = (
            "one seed: the study has chosen it by this very figure, which is therefore too low; not confirmed. To "
            f"confirm it: `{verb('confirm', winner.study.study_name)}`"
        )
    if not seen:
        rows["held-out"] = _unmeasured(winner, checkpoint) if held_out is None else _shown(held_out)
    return rows


def _shown(held_out: HeldOut) -> str:
    seeds = ", ".join(map(str, held_out.seeds))
    of = f"the mean of its configuration over seeds {seeds}, " if len(held_out.seeds) > 1 else ""
    return (
        f"{held_out.loss:.4f}, {of}95 % interval over titles {held_out.interval[0]:.4f} to "
        f"{held_out.interval[1]:.4f}, on {held_out.documents:,} titles that the study had read "
        f"{_times(held_out.reads)}"
    )


def _unmeasured(winner: Winner, checkpoint: Checkpoint) -> str:
    """That there is no held-out loss, whether the study has used these titles, and how the loss is measured."""
    if "trained_on" in checkpoint.record:
        return "not measured: trained after the study, whose trials alone are scored on them"
    reads = len(winner.study.user_attrs.get(READS, ()))
    used = f"has read these titles {_times(reads)}, for others" if reads else "has not read these titles yet"
    confirmed = ["--confirmed"] if winner.trained_in.study_name != winner.study.study_name else []
    command = verb("evaluate", "--study", winner.study.study_name, *confirmed)
    return f"not measured; the study {used}. To measure it, before the export: `{command}`"


def _times(reads: int) -> str:
    return "once" if reads == 1 else f"{reads} times"


def _table(rows: Mapping[str, str]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in rows.items())


def _line(text: str) -> str:
    return escaped(text, readable=True)
