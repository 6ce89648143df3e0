"""The published figures in `studies/`: they load, name arms that are run, and agree with themselves."""

import math
import re

import pytest

from model.config.counts import parameter_count
from service.report.published.document import load
from service.settings import ROOT
from service.study import definition as study_config

STUDIES = ("ladder", "epics", "ablations15", "lr-batch")
FILES = {name: load(ROOT / "studies" / name / "published.yaml") for name in STUDIES}
DEFINITIONS = {name: study_config.load(name) for name in STUDIES}

SETTINGS = {
    "n_layer": "model.n_layer",
    "n_layers": "model.n_layer",
    "n_head": "model.n_head",
    "n_heads": "model.n_head",
    "d_model": "model.d_model",
    "block_size": "model.block_size",
    "seq_len": "model.block_size",
    "Seq Length": "model.block_size",
    "batch_size": "training.batch_size",
    "batch size": "training.batch_size",
    "Batch Size": "training.batch_size",
    "vocab_size": "tokenizer.vocab_size",
    "dropout": "model.dropout",
    "lr": "optimizer.lr",
    "learning rate": "optimizer.lr",
    "learning_rate": "optimizer.lr",
    "Learning Rate": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "weight decay": "optimizer.weight_decay",
    "min_lr": "schedule.floor_lr",
    "warmup_ratio": "schedule.warmup_fraction",
    "epochs": "training.epochs",
}
"""Columns of published tables that are settings here."""


def cells(study):
    """Table, row, column name and published value of every cell that has a number."""
    for table in FILES[study].tables:
        for row in table.rows:
            for name, value in row.values.items():
                if value is not None:
                    yield table.id, row, name, value


def table(study, name):
    return {row.arm: row.values for each in FILES[study].tables if each.id == name for row in each.rows}


def config(study, arm):
    definition = DEFINITIONS[study]
    return definition.config_for(definition.cells[definition.arms.index(arm)])


def setting(study, arm, key):
    section, _, name = key.partition(".")
    return getattr(getattr(config(study, arm), section), name)


def test_every_file_of_published_figures_is_tested_here():
    assert {path.parent.name for path in ROOT.glob("studies/*/published.yaml")} == set(STUDIES)


@pytest.mark.parametrize("study", STUDIES)
def test_every_arm_named_is_run(study):
    assert set(FILES[study].arms()) <= set(DEFINITIONS[study].arms)


@pytest.mark.parametrize("study", STUDIES)
def test_every_defect_referred_to_is_listed(study):
    text = FILES[study].model_dump_json(exclude={"defects"})
    assert set(re.findall(r"\bD\d+\b", text)) <= {defect.id for defect in FILES[study].defects}


@pytest.mark.parametrize("study", STUDIES)
def test_arms_have_the_settings_that_the_tables_print(study):
    compared = 0
    for _, row, name, value in cells(study):
        if name in SETTINGS:
            ours = setting(study, row.arm, SETTINGS[name])
            # tables round to four decimals
            assert ours == value or (value < 1 and round(ours, 4) == value), (row.arm, name)
            compared += 1
    assert compared


@pytest.mark.parametrize("arm", ["1 SGD baseline", "4 Optuna", "6 ASAM", "7 size I", "8 size II"])
def test_the_ladder_has_the_published_numbers_of_parameters(arm):
    assert parameter_count(config("ladder", arm)) == table("ladder", "meta")[arm]["parameters_count"]


@pytest.mark.parametrize("arm", ["baseline as run", "small_model as run"])
def test_the_ablations_have_the_published_numbers_of_parameters_but_for_the_vocabulary(arm):
    ours = config("ablations15", arm)
    added = (ours.tokenizer.vocab_size - 49_152) * ours.model.d_model
    assert parameter_count(ours) == table("ablations15", "parameters")[arm]["parameters"] + added


@pytest.mark.parametrize("arm", list(table("ablations15", "data-exposure")))
def test_the_ablations_see_the_published_numbers_of_tokens(arm):
    ours = config("ablations15", arm)
    published = table("ablations15", "data-exposure")[arm]
    assert ours.tokens_per_step == published["Tokens/Step"]
    assert ours.tokens_per_step * ours.training.steps == published["Total Tokens"]


@pytest.mark.parametrize("arm", list(table("ablations15", "performance")))
def test_derived_figures_of_the_ablations_follow_from_the_others(arm):
    performance = table("ablations15", "performance")[arm]
    loss, accuracy = performance["Train Loss"], performance["Accuracy"]
    top5 = table("ablations15", "top5")[arm]
    # differences of numbers with three decimals, rounded themselves
    assert top5["Improvement"] == pytest.approx(top5["Final Top-5"] - top5["Initial Top-5"], abs=1.1e-3)
    assert top5["Top-1 Gap"] == pytest.approx(top5["Final Top-5"] - accuracy, abs=1.1e-3)
    exposure = table("ablations15", "loss-per-token")[arm]
    # one cell is two units of its last place off, see the notes
    assert exposure["Final Loss"] == loss
    assert exposure["Loss/Token Efficiency"] == pytest.approx(loss / exposure["Tokens (M)"], abs=2.2e-4)
    speed = table("ablations15", "speed")[arm]
    assert speed["Avg Step Time (s)"] == pytest.approx(1 / speed["Steps/Second"], abs=0.6e-4)
    validation = table("ablations15", "validation")[arm]
    assert validation["Final Val Loss"] == pytest.approx(performance["Eval Loss"], abs=0.6e-2)
    assert (validation["Val Accuracy"], validation["Val Perplexity"]) == (accuracy, performance["Perplexity"])


def test_context_efficiency_is_loss_by_context():
    for arm, values in table("ablations15", "context-efficiency").items():
        block = setting("ablations15", arm, "model.block_size")
        assert values["Context Efficiency"] == pytest.approx(values["Loss"] / block, abs=0.6e-4)


@pytest.mark.parametrize(
    ("study", "metric", "name", "column", "decimals"),
    [
        ("ladder", "val_loss_official", "meta", "final_val_loss", 4),
        ("ablations15", "nats_per_token", "validation-logged", "eval loss", 4),
        ("ablations15", "nats_per_token", "performance", "Eval Loss", 3),
        ("ablations15", "accuracy", "validation-logged", "eval accuracy", 3),
        ("ablations15", "perplexity", "validation-logged", "eval perplexity", 2),
        ("ablations15", "top5_accuracy", "top5", "Final Top-5", 3),
        ("ablations15", "confidence", "confidence", "Confidence", 3),
    ],
)
def test_curves_end_at_the_figure_in_the_table(study, metric, name, column, decimals):
    ends = {curve.arm: curve.points[-1][1] for curve in FILES[study].curves if curve.metric == metric}
    assert len(ends) in (6, 7)
    for arm, values in table(study, name).items():
        if values.get(column) is not None:
            assert ends[arm] == pytest.approx(values[column], abs=0.51 * 10**-decimals), arm


@pytest.mark.parametrize("study", STUDIES)
def test_curves_run_forward(study):
    for curve in FILES[study].curves:
        xs = [x for x, _ in curve.points]
        assert xs == sorted(set(xs))


def test_improvements_of_the_epics_follow_from_their_losses():
    rows = table("epics", "summary")
    baseline = rows["baseline"]["Validation Loss"]
    for arm in ("Epic 1", "Epic 2", "champion"):
        gain = 1 - rows[arm]["Validation Loss"] / baseline
        assert rows[arm]["Improvement"] == pytest.approx(100 * gain, abs=0.051)


def test_held_out_perplexity_is_of_the_loss():
    for values in table("ladder", "held-out").values():
        assert values["Perplexity"] == pytest.approx(math.exp(values["Loss"]), abs=2e-4)


def test_the_grid_has_no_published_result():
    settings = {"learning rate", "batch size"}
    assert all(row.values.keys() == settings for row in FILES["lr-batch"].tables[-1].rows)
    assert len(table("lr-batch", "grid")) == 10
