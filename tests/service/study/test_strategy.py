import json
from pathlib import Path

import pytest

from model.config.section import validate
from model.config.yaml_tree import parse
from service.study import strategy
from service.study.file import StudyConfig
from service.study.pruners import MedianConfig, NoPrunerConfig
from service.study.samplers import GpConfig, ThawConfig

SPACE = "space: {optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2}}\n"
DESIGN = "design: {list: [{optimizer.lr: 1.0e-3}]}\n"
ROWS = Path(__file__).parents[2] / "benchmarks" / "results" / "search.json"


def config(text):
    return validate(parse(f"question: Does it work?\n{text}", name="study.yaml"), StudyConfig)


@pytest.mark.parametrize(
    ("body", "sampler", "is_open"),
    [
        (SPACE, "thaw", True),
        (SPACE + "pruner: {name: median}\n", "tpe", False),
        (SPACE + "pruner: {name: none}\n", "tpe", False),  # every trial shall run to its end
        (SPACE + "sampler: {name: random}\n", "random", False),
    ],
)
def test_a_search_that_names_nothing_gets_the_best_and_a_pruner_a_sampler_that_bears_it(
    body, sampler, is_open
):
    study = config(body)
    assert (strategy.with_sampler(study).sampler.name, strategy.is_open(study)) == (sampler, is_open)


def test_a_design_has_no_sampler():
    assert strategy.with_sampler(config(DESIGN)).sampler is None
    assert not strategy.is_open(config(DESIGN))


def test_a_stored_study_without_a_sampler_is_of_a_version_that_took_tpe():
    assert strategy.before_there_was_thaw(config(SPACE)).sampler.name == "tpe"
    assert strategy.before_there_was_thaw(config(SPACE + "sampler: {name: gp}\n")).sampler.name == "gp"


def test_the_reason_has_the_figures_that_were_measured_and_they_are_the_best():
    rows = [row for row in json.loads(ROWS.read_text()) if (row["table"], row["workers"]) == ("samplers", 1)]
    measured = {row["searcher"].lower(): row["ratio"] for row in rows if row["pruner"] in ("none", "pauses")}
    assert {name: round(measured[name], 3) for name in strategy.SHARES} == strategy.SHARES
    (default,) = (row for row in rows if row.get("default"))
    assert (default["searcher"], round(default["ratio"], 3)) == ("thaw, prior real", strategy.AFTER_RECORDED)
    # but for earlier studies that were made of the table itself
    others = [row["ratio"] for row in rows if row["ratio"] and "prior" not in row["searcher"]]
    assert default["ratio"] < min(others) == measured["thaw"]
    (said,) = strategy.notes(ThawConfig(name="thaw"), NoPrunerConfig(), is_open=True)
    assert said.startswith("searched by thaw, as the file names neither sampler nor pruner: ")
    assert "(thaw 0.07, tpe 0.25; studies/samplers)" in said
    known = ThawConfig(name="thaw", prior=("studies/samplers-hard",))
    _, said = strategy.notes(known, NoPrunerConfig(), is_open=True)
    assert said.startswith(
        "it begins with what the runs recorded in studies/samplers-hard say of these settings (0.04)"
    )
    assert not list(strategy.notes(ThawConfig(name="thaw"), NoPrunerConfig(), is_open=False))
    (misfit,) = strategy.notes(GpConfig(name="gp"), MedianConfig(name="median"), is_open=False)
    assert "sampler gp does not learn from what pruner median stops" in misfit
