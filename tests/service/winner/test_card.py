import json
from dataclasses import replace
from types import SimpleNamespace

import optuna
import pytest
import yaml

from model.checkpoint import Checkpoint
from service.held_out.best import READS
from service.winner.card import HeldOut, card, held_out_of
from service.winner.choice import Winner, choose
from tests.service.winner.asking import best_trial, invoke


def test_the_card_says_what_was_trained_and_measured(finished, tmp_path):
    done = invoke(finished, "export", "tiny", "--format", "hf", "--out", tmp_path / "model")
    assert done.exit_code == 0, done.output
    card = (tmp_path / "model" / "README.md").read_text()
    best = best_trial(finished)
    front, _, body = card.removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front)["library_name"] == "transformers"
    assert f"{best.value:.4f}, of this model, on the validation split" in body
    for said in (
        "8,960 tokens",
        "file corpus.txt",
        "not confirmed. To confirm it: `.venv/bin/python -m service confirm tiny`",
        ". To measure it, before the export: `python3 evaluate.py --study tiny`",
        "seed | 1337",
        "GPT-2's layout",
    ):
        assert said in body, said


@pytest.fixture
def winner(finished) -> Winner:
    """The best trial of a study."""
    return choose(finished.settings, "tiny")


def row(winner: Winner, checkpoint: Checkpoint, held_out: HeldOut | None = None) -> str:
    """What the card says of held-out titles."""
    text = card(winner, checkpoint, held_out=held_out, name="model")
    return next(line for line in text.splitlines() if line.startswith("| held-out |"))


def test_a_card_says_how_often_held_out_titles_were_read_for_others_and_what_measures_it(finished, winner):
    checkpoint = winner.checkpoint(finished.settings)
    used = SimpleNamespace(study_name="tiny", user_attrs={**winner.study.user_attrs, READS: [1, 2]})
    assert "the study has read these titles 2 times, for others" in row(
        replace(winner, study=used), checkpoint
    )
    confirmed = replace(winner, trained_in=optuna.create_study(study_name="tiny-confirm"))
    assert "`python3 evaluate.py --study tiny --confirmed`" in row(confirmed, checkpoint)
    after = replace(checkpoint, record={**checkpoint.record, "trained_on": "train"})
    assert "not measured: trained after the study" in row(winner, after)
    seen = replace(checkpoint, record={**checkpoint.record, "trained_on": "all"})
    assert "| held-out |" not in card(winner, seen, held_out=None, name="model")


def test_the_loss_of_a_confirmed_winner_is_the_mean_over_its_seeds(winner, tmp_path, finished):
    found = {
        "corpus_fingerprint": winner.study.user_attrs["corpus"]["fingerprint"],
        "confirmation": "tiny-confirm",
        "held_out_documents": 200,
        "held_out_reads": 1,
        "winner": {
            "val_losses": {"7": 2.0, "8": 2.5},
            "held_out_losses": {"7": 2.25, "8": 2.75},
            "interval": [2.4, 2.6],
        },
    }
    (tmp_path / "evaluation-confirmed.json").write_text(json.dumps(found))
    confirmed = replace(
        winner, trained_in=optuna.create_study(study_name="tiny-confirm"), losses={7: 2.0, 8: 2.5, 9: 3.0}
    )
    held_out = held_out_of(confirmed, tmp_path)
    assert held_out == HeldOut(2.5, (2.4, 2.6), 200, 1, (7, 8))
    assert (
        "2.5000, the mean of its configuration over seeds 7, 8, 95 % interval over titles 2.4000 to 2.6000, on 200 "
        "titles that the study had read once"
        in row(confirmed, winner.checkpoint(finished.settings), held_out)
    )
    assert held_out_of(winner, tmp_path) is None  # that file is of the confirmation alone
    for other in ({"confirmation": "x"}, {"corpus_fingerprint": "x"}, {"winner": []}):
        (tmp_path / "evaluation-confirmed.json").write_text(json.dumps(found | other))
        assert held_out_of(confirmed, tmp_path) is None
    (tmp_path / "evaluation-confirmed.json").write_text(json.dumps(found))
    assert held_out_of(replace(confirmed, losses={7: 2.0, 8: 2.6}), tmp_path) is None  # since trained anew
