import hashlib
import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config.counts import parameter_count
from model.config.section import validate
from model.config.settings_without_effect import settings_without_effect
from model.config.train_config import TrainConfig
from model.config.yaml_tree import read
from model.errors import ConfigError, UserError
from service.study.definition import StudyDefinition, load
from service.study.samplers import build_sampler

ROOT = Path(__file__).resolve().parents[3]


@cache
def shipped() -> tuple[StudyDefinition, StudyDefinition]:
    return load("hn"), load("quickstart")


STUDY = """\
question: Which rate?
seed: 3
trials: 20
fixed:
  training.epochs: 3
  model.dropout: 0.1
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 5.0e-3, log: true}
  model.block_size: {type: categorical, choices: [64, 128]}
  optimizer.sharpness.method: {type: categorical, choices: [none, sam]}
  optimizer.sharpness.rho: {type: float, low: 0.02, high: 2.0, when: {optimizer.sharpness.method: [sam]}}
sampler: {name: tpe, startup_trials: 5}
pruner: {name: median}
keep_checkpoints: 2
"""
DESIGN = """\
question: Does the seed matter?
design:
  list:
    - {optimizer.lr: 2.0e-3}
    - {optimizer.lr: 3.0e-3, optimizer.betas: [0.9, 0.999]}
  seeds: [1337, 1338]
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    shutil.copy(ROOT / "train_config.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(root: Path, text: str, name: str = "small") -> str:
    folder = root / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    return name


def define(root: Path, text: str, **more) -> StudyDefinition:
    return load(write(root, text), root=root, **more)


def refusal(root: Path, text: str, **more) -> str:
    with pytest.raises(UserError) as caught:
        define(root, text, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_search_has_what_its_file_says(root):
    study = define(root, STUDY)
    assert (study.name, study.question, study.seed, study.trials) == ("small", "Which rate?", 3, 20)
    assert (study.keep_checkpoints, study.baseline, study.cells) == (2, True, ())
    assert (study.base_config.training.epochs, study.base_config.model.dropout) == (3.0, 0.1)
    assert list(study.space.parameters) == [
        "optimizer.lr",
        "model.block_size",
        "optimizer.sharpness.method",
        "optimizer.sharpness.rho",
    ]
    assert (study.sampler.name, study.sampler.startup_trials, study.pruner.warmup_fraction) == ("tpe", 5, 0.5)
    assert study.config_for({"model.block_size": 128}).model.block_size == 128


def test_defaults_are_thaw_without_pruner_and_the_repositorys_base_file(root):
    study = define(root, "question: q\nspace:\n  optimizer.lr: {type: float, low: 1e-4, high: 1e-2}\n")
    assert (study.sampler.name, study.pruner.name, study.trials, study.seed) == ("thaw", "none", 50, 1337)
    assert (study.keep_checkpoints, study.baseline) == (3, True)
    assert study.base_config == validate(read(root / "train_config.yaml"), TrainConfig)


@pytest.mark.parametrize(
    ("key", "given", "warmup"),
    [
        ("fixed", "schedule.floor_fraction: 0", 0.5),
        ("fixed", "schedule.decay: wsd", 0.75),
        ("space", "schedule.decay: {type: categorical, choices: [cosine, wsd]}", 0.75),
        ("space", "schedule.decay: {type: categorical, choices: [cosine, linear]}", 0.5),
    ],
)
def test_a_pruner_warms_up_as_the_slowest_schedule_asks(root, key, given, warmup):
    definition = define(root, STUDY.replace(f"{key}:\n", f"{key}:\n  {given}\n"))
    assert definition.pruner.warmup_fraction == warmup
    stored = StudyDefinition.from_snapshot(json.loads(json.dumps(definition.snapshot())))
    assert stored.identity() == definition.identity()


def test_another_base_file_may_be_named(root):
    text = (root / "train_config.yaml").read_text(encoding="utf-8").replace("n_layer: 4", "n_layer: 2")
    (root / "other.yaml").write_text(text, encoding="utf-8")
    assert define(root, "base: other.yaml\n" + STUDY).base_config.model.n_layer == 2
    assert (
        refusal(root, "base: none.yaml\n" + STUDY) == "none.yaml: cannot be read: No such file or directory"
    )


def test_overrides_win_over_fixed_values(root):
    study = define(root, STUDY, overrides={"model.dropout": 0.2, "seed": 5})
    assert (study.base_config.model.dropout, study.base_config.seed) == (0.2, 5)
    assert study.base_config.training.epochs == 3.0
    assert study.overrides == {"model.dropout": 0.2, "seed": 5}


@pytest.mark.parametrize(
    ("old", "new", "overrides", "message"),
    [
        (
            "model.dropout: 0.1",
            "model.dropout: 1.5",
            {},
            "small/study.yaml:6: model.dropout: must be less than 1",
        ),
        (
            "model.dropout:",
            "model.drop:",
            {},
            "small/study.yaml:6: model.drop: unknown key, did you mean 'dropout'?",
        ),
        ("", "", {"model.dropout": "x"}, 'command line: model.dropout: must be a number, given "x"'),
        ("", "", {"modl.dropout": 0.1}, "command line: modl: unknown key, did you mean 'model'?"),
        (
            "model.dropout: 0.1",
            "optimizer.lr: 0.1",
            {},
            "small/study.yaml:6: optimizer.lr: varied by the study, cannot be set for all trials",
        ),
        ("", "", {"optimizer.lr": 0.1}, "command line: optimizer.lr: varied by the study"),
        # also where the base file with it would be invalid
        ("", "", {"optimizer.lr": -1}, "command line: optimizer.lr: varied by the study"),
        (
            "",
            "",
            {"optimizer.sharpness": {"method": "sam"}},
            "command line: optimizer.sharpness: varied by the study, cannot be set for all trials; "
            "optimizer.sharpness.method stands in its space, take it out there to set it here",
        ),
        (
            "model.dropout: 0.1",
            "optimizer.momentum: 0.5",
            {},
            "small/study.yaml:6: optimizer.momentum: has no effect in any trial of this study",
        ),
        ("", "", {"optimizer.momentum": 0.5}, "command line: optimizer.momentum: has no effect in any trial"),
        ("seed: 3", "sed: 3", {}, "small/study.yaml:2: sed: unknown key, did you mean 'seed'?"),
        ("question: Which rate?", "", {}, "question: missing key"),
        ("trials: 20", "trials: 0", {}, "small/study.yaml:3: trials: must be greater than or equal to 1"),
        (
            "type: float, low: 1.0e-4",
            "type: flaot, low: 1.0e-4",
            {},
            "small/study.yaml:8: space.optimizer.lr: type: given \"flaot\", allowed: 'float', 'int', 'cat",
        ),
        (
            "low: 1.0e-4",
            "low: true",
            {},
            "small/study.yaml:8: space.optimizer.lr.low: must be a number, given true",
        ),
        (
            "low: 1.0e-4",
            "low: 0",
            {},
            "small/study.yaml:8: space.optimizer.lr: low must be above 0 with log: true",
        ),
        (
            "low: 1.0e-4",
            "lo: 1.0e-4",
            {},
            "small/study.yaml:8: space.optimizer.lr.low: missing key",
        ),
        ("[64, 128]", "[64, 64]", {}, "small/study.yaml:9: space.model.block_size: choices must differ"),
        (
            "[64, 128]",
            "[32, 128]",
            {},
            "small/study.yaml:9: at model.block_size 32: (top level): evaluation.block",
        ),
        (
            "method: [sam]",
            "method: [sma]",
            {},
            "small/study.yaml:11: optimizer.sharpness.rho: when: optimizer.sha",
        ),
        (
            ", when: {optimizer.sharpness.method: [sam]}",
            "",
            {},
            "small/study.yaml:11: optimizer.sharpness.rho: has no effect at optimizer.sharpness.method none; "
            "give it when: {optimizer.sharpness.method: [sam]}",
        ),
        (
            "name: tpe",
            "name: tep",
            {},
            "small/study.yaml:12: sampler: name: given \"tep\", allowed: 'tpe', 'random'",
        ),
        (
            "startup_trials",
            "startup_trails",
            {},
            "sampler.startup_trails: unknown key, did you mean 'startup_trials'?",
        ),
        (
            "{name: tpe, startup_trials: 5}",
            "{name: gp}",
            {},
            "small/study.yaml:12: sampler: gp needs a space without conditions, given `when` of optimizer.sh",
        ),
        (
            "{name: median}",
            "{name: median, warmup_fraction: 0.9}",
            {},
            "small/study.yaml:13: pruner: median could stop no trial before its end with training.rungs 8",
        ),
        (
            "low: 1.0e-4",
            "low: 2.0e-3",
            {},
            "small/study.yaml:8: optimizer.lr: the base file's value, 0.001, is outside, and tpe learns from",
        ),
        (
            "pruner:",
            "design: {list: [{}]}\npruner:",
            {},
            "(top level): needs either space or design, given both",
        ),
    ],
)
def test_a_fault_is_told_in_one_line_at_its_place(root, old, new, overrides, message):
    assert old in STUDY
    assert message in refusal(root, STUDY.replace(old, new, 1), overrides=overrides)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("sampler: {name: random}\n", "sampler has no effect with a design"),
        ("seed: 3\n", "seed is the sampler's and has no effect with a design"),
        ("trials: 3\n", "trials has no effect with a design"),
        (
            "fixed: {seed: 5}\n",
            "small/study.yaml:7: seed: has no effect, each configuration of the design has",
        ),
        (
            "baseline: false\nfixed: {optimizer.lr: 0.1}\n",
            "small/study.yaml:8: optimizer.lr: has no effect, each configuration of the design has its own",
        ),
        ("fixed: {optimizer.momentum: 0.5}\n", "optimizer.momentum: has no effect in any trial"),
    ],
)
def test_what_has_no_effect_beside_a_design_is_refused(root, extra, message):
    assert message in refusal(root, DESIGN + extra)


SEES = "tokenizer.trained_on: train_and_validation"


@pytest.mark.parametrize(
    ("text", "overrides", "place"),
    [
        (DESIGN + f"fixed: {{{SEES}}}\n", {}, "small/study.yaml:"),
        (DESIGN + f"fixed: {{{SEES}}}\n", {}, "rebuilds_published: true"),
        (
            DESIGN.replace("list:", f"list:\n    - {{{SEES}}}"),
            {},
            "small: tokenizer.trained_on: must be train",
        ),
        (STUDY, {"tokenizer.trained_on": "train_and_validation"}, "command line: tokenizer.trained_on"),
        (STUDY + "rebuilds_published: true\n", {}, "rebuilds_published is for a design"),
    ],
)
def test_a_tokenizer_that_has_seen_the_validation_titles_is_refused(root, text, overrides, place):
    assert place in refusal(root, text, overrides=overrides)


def test_a_design_that_rebuilds_published_figures_may_use_such_a_tokenizer(root):
    study = define(root, DESIGN + f"rebuilds_published: true\nfixed: {{{SEES}}}\n")
    assert study.base_config.tokenizer.trained_on == "train_and_validation"


def test_what_was_stored_before_there_was_a_leading_space_goes_on_without_one(root):
    snapshot = json.loads(json.dumps(define(root, STUDY).snapshot()))
    assert StudyDefinition.from_snapshot(snapshot).base_config.tokenizer.leading_space
    del snapshot["base"]["tokenizer"]["leading_space"]
    assert not StudyDefinition.from_snapshot(snapshot).base_config.tokenizer.leading_space


def test_what_is_fixed_is_what_the_arms_start_from(root):
    study = define(root, DESIGN + "fixed: {optimizer.betas: [0.8, 0.9]}\n")
    betas = [study.config_for(cell).optimizer.betas for cell in study.cells[:3]]
    assert betas == [(0.8, 0.9), (0.8, 0.9), (0.9, 0.999)]
    message = refusal(root, DESIGN, overrides={"optimizer.betas": [0.8, 0.9]})
    assert message.startswith("command line: optimizer.betas: varied by the study, cannot be set for all")


OWN_BUDGETS = """\
question: q
fixed: {training.epochs: null, training.steps: 100}
design:
  list: [{training.batch_size: 32}, {training.tokens: 5000}, {training.epochs: 3}]
baseline: false
"""


def test_each_arm_of_a_design_has_its_own_budget(root):
    study = define(root, OWN_BUDGETS)
    assert study.own_budgets
    budgets = [study.config_for(cell).with_token_budget(1000).budget_tokens for cell in study.cells]
    assert budgets == [100 * 32 * 64, 5000, 3000]


def test_with_a_pruner_all_trials_have_one_budget(root):
    with_pruner = OWN_BUDGETS + "pruner: {name: median}\n"
    message = refusal(root, with_pruner)
    assert message.startswith("studies/small/study.yaml:4: training.epochs: no trial may change it, because")
    only_batches = with_pruner.replace(", {training.tokens: 5000}, {training.epochs: 3}", "")
    assert not define(root, only_batches).own_budgets
    assert not define(root, STUDY).own_budgets
    assert not define(root, GRID).own_budgets


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "3.0e-3",
            "-1",
            "study.yaml:5: at optimizer.lr -1, optimizer.betas [0.9, 0.999], seed 1337: optim",
        ),
        ("3.0e-3", "2.0e-3, data.seed: 4", "small/study.yaml:5: data.seed: no trial may change it"),
        (
            "3.0e-3, optimizer.betas: [0.9, 0.999]",
            "2.0e-3",
            "the same configuration as at studies/small",
        ),
        ("optimizer.betas", "optimizer.beta", "small/study.yaml:5: optimizer.beta: unknown key"),
    ],
)
def test_the_cells_of_a_design_are_proven(root, old, new, message):
    assert old in DESIGN
    assert message in refusal(root, DESIGN.replace(old, new, 1))


def test_a_design_has_a_slot_for_the_baseline_and_each_cell(root):
    study = define(root, DESIGN)
    assert study.cells == (
        {"seed": 1337},
        {"optimizer.lr": 2e-3, "seed": 1337},
        {"optimizer.lr": 3e-3, "optimizer.betas": [0.9, 0.999], "seed": 1337},
        {"seed": 1338},
        {"optimizer.lr": 2e-3, "seed": 1338},
        {"optimizer.lr": 3e-3, "optimizer.betas": [0.9, 0.999], "seed": 1338},
    )
    assert study.arms == ("baseline", "lr 0.002", "lr 0.003, betas [0.9, 0.999]") * 2
    assert study.trials == 6
    assert study.fixed_values(0) == {"optimizer.lr": 1e-3, "optimizer.betas": [0.9, 0.95], "seed": 1337}
    assert study.fixed_values(4) == study.cells[4]
    assert study.config_for(study.fixed_values(0)) == study.base_config
    # what differs is a space, so that the trials have parameters to show
    for slot in range(6):
        values = study.fixed_values(slot)
        assert study.space.decode(study.space.encode(values)) == values
    without = define(root, DESIGN + "baseline: false\n")
    assert without.cells == tuple(cell for cell in study.cells if "optimizer.lr" in cell)


def test_a_cell_that_is_the_baseline_is_not_run_twice(root):
    text = "question: q\ndesign:\n  grid: {optimizer.lr: [5.0e-4, 1.0e-3], training.batch_size: [32, 64]}\n"
    base = {"optimizer.lr": 1e-3, "training.batch_size": 64}
    study = define(root, text)
    assert study.cells[0] == {}
    assert study.fixed_values(0) == base
    assert base not in study.cells
    assert study.arms[0] == "baseline"
    assert len(study.cells) == study.trials == len(study.arms) == 4
    assert define(root, text + "baseline: false\n").cells == (
        {"optimizer.lr": 5e-4, "training.batch_size": 32},
        {"optimizer.lr": 5e-4, "training.batch_size": 64},
        {"optimizer.lr": 1e-3, "training.batch_size": 32},
        base,
    )


GRID = """\
question: q
space:
  optimizer.lr: {type: float, low: 1.0e-3, high: 3.0e-3, step: 1.0e-3}
  model.n_layer: {type: int, low: 3, high: 5}
sampler: {name: grid}
"""


def test_a_grid_sampler_turns_the_space_into_cells(root):
    study = define(root, GRID)
    values = [study.fixed_values(slot) for slot in range(study.trials)]
    assert len(values) == 9
    assert values[0] == {"optimizer.lr": 1e-3, "model.n_layer": 4}  # the baseline
    assert {tuple(v.values()) for v in values} == {(lr, n) for lr in (1e-3, 2e-3, 3e-3) for n in (3, 4, 5)}
    study = define(root, GRID + "baseline: false\n")
    assert list(study.cells) == list(study.space.cells())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            ", step: 1.0e-3",
            "",
            "small/study.yaml:5: sampler: grid needs choices or a step for every parameter",
        ),
        (", step: 1.0e-3", ", step: 1.0e-7", "grid must have at most 10000 configurations, given 60003"),
        ("sampler:", "trials: 4\nsampler:", "trials has no effect with a design or a grid"),
        ("sampler:", "seed: 4\nsampler:", "seed is the sampler's and has no effect"),
    ],
)
def test_a_grid_must_be_finite(root, old, new, message):
    assert message in refusal(root, GRID.replace(old, new))


def test_the_sampler_models_all_parameters_jointly_beside_a_baseline(root):
    study = define(root, STUDY)
    space = study.space
    sampler = build_sampler(study.sampler, seed=1, space=space.distributions)
    tuning = optuna.create_study(sampler=sampler)
    tuning.enqueue_trial(space.encode(study.fixed_values(0)))
    for _ in range(3):
        trial = tuning.ask()
        space.suggest(trial)
        tuning.tell(trial, 1.0)
    joint = sampler.infer_relative_search_space(tuning, tuning.trials[0])
    assert set(joint) == set(space.parameters) - space.conditional


@pytest.mark.parametrize(("name", "arm"), [("best", "strongest published"), ("ours", "ours")])
def test_a_recipe_as_a_file_is_that_of_its_study(name, arm):
    study = load("champion")
    measured = study.config_for(study.cells[study.arms.index(arm)])
    recipe = validate(read(ROOT / f"studies/champion/{name}.yaml"), TrainConfig)
    assert recipe == measured.model_copy(
        update={"evaluation": recipe.evaluation}
    )  # windows that fit every arm


def test_a_search_leaves_other_slots_to_the_sampler(root):
    study = define(root, STUDY)
    assert study.fixed_values(1) is None
    assert define(root, STUDY + "baseline: false\n").fixed_values(0) is None


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_every_point_that_the_shipped_studies_may_suggest_is_valid(seed):
    for study in shipped():
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
        values = study.space.suggest(trial)
        config = study.config_for(values)
        assert study.space.is_complete(values)
        assert not set(values) & settings_without_effect(config)
        same_for_all = (config.data, config.evaluation, config.training.rungs, config.seed)
        base = study.base_config
        assert same_for_all == (base.data, base.evaluation, base.training.rungs, base.seed)


def test_the_shipped_studies_begin_with_their_baseline():
    hn, quickstart = shipped()
    assert hn.config_for(hn.fixed_values(0)) == hn.base_config
    assert hn.base_config.training.epochs == 7
    assert parameter_count(quickstart.base_config) < 1_000_000
    assert quickstart.base_config.data.source == "docstrings"


def reformatted(text: str) -> str:
    return "# a comment\n" + text.replace("1.0e-4", "0.0001").replace(
        "{name: median}", "\n  name: median  # so\n"
    )


PARTS = {
    "base config": [
        STUDY.replace("dropout: 0.1", "dropout: 0.2"),
        STUDY.replace("epochs: 3", "epochs: 4"),
    ],
    "search space": [
        STUDY.replace("high: 5.0e-3", "high: 6.0e-3"),
        STUDY.replace("log: true", "log: false"),
        STUDY.replace("[64, 128]", "[64, 96, 128]"),
    ],
    "strategy": [
        STUDY.replace("seed: 3", "seed: 4"),
        STUDY.replace("startup_trials: 5", "startup_trials: 6"),
        STUDY.replace("{name: median}", "{name: none}"),
        STUDY.replace("{name: median}", "{name: median, audit: 0.05}"),
    ],
    "baseline": [STUDY + "baseline: false\n"],
}


@pytest.mark.parametrize(("part", "text"), [(part, text) for part, texts in PARTS.items() for text in texts])
def test_the_identity_changes_with_each_part_and_only_there(root, part, text):
    before, after = define(root, STUDY).identity(), define(root, text).identity()
    assert {name for name in before if before[name] != after[name]} == {part}


def test_the_identity_of_a_design_is_its_cells(root):
    before = define(root, DESIGN).identity()
    after = define(root, DESIGN.replace("1338]", "1339]")).identity()
    assert {name for name in before if before[name] != after[name]} == {"search space", "design"}


@pytest.mark.parametrize(
    "text",
    [
        reformatted(STUDY),
        STUDY.replace("Which rate?", "Which learning rate?"),
        STUDY.replace("trials: 20", "trials: 30"),
        STUDY.replace("keep_checkpoints: 2", "keep_checkpoints: 5"),
        STUDY + "baseline: true\nbase: train_config.yaml\n",
        STUDY.replace("{name: median}", "{name: median, startup_trials: 5, warmup_fraction: 0.5}"),
        STUDY.replace("{name: median}", "{name: median, audit: 0}"),
        STUDY.replace("type: categorical, choices: [64, 128]", "choices: [64, 128], type: categorical"),
    ],
)
def test_the_identity_does_not_change_with_formatting_and_what_makes_no_difference(root, text):
    assert text != STUDY
    assert define(root, text).identity() == define(root, STUDY).identity()


def test_the_identity_is_that_of_studies_made_before_pruning_was_audited(root):
    tpe = {"name": "tpe", "startup_trials": 5, "candidates": 24}
    median = {"name": "median", "warmup_fraction": 0.5, "startup_trials": 5}
    before = hashlib.sha256(json.dumps([tpe, median, 3], sort_keys=True).encode()).hexdigest()[:12]
    assert define(root, STUDY).identity()["strategy"] == before


@pytest.mark.parametrize(
    ("pruner", "message"),
    [
        ("{name: none, audit: 0.1}", "pruner.audit: unknown key, allowed: name"),
        ("{name: median, audit: 1.5}", "pruner.audit: .*less than or equal to 1"),
        ("{name: patient, then: {name: median, audit: 0.1}}", "audit has no effect inside then, given 0.1"),
    ],
)
def test_an_audit_that_cannot_be_is_refused(root, pruner, message):
    with pytest.raises(ConfigError, match=message):
        define(root, STUDY.replace("{name: median}", pruner))


def test_an_override_changes_the_identity_as_the_file_would(root):
    by_file = define(root, STUDY.replace("dropout: 0.1", "dropout: 0.2")).identity()
    assert define(root, STUDY, overrides={"model.dropout": 0.2}).identity() == by_file


OPEN = STUDY[: STUDY.index("sampler:")]


def test_a_stored_study_whose_file_named_nothing_stays_what_it_was(root):
    study = define(root, OPEN)
    snapshot = study.snapshot()
    assert (study.strategy_open, snapshot["study"]["sampler"]["name"]) == (True, "thaw")
    del snapshot["study"]["sampler"]  # as a version without thaw has left it
    assert StudyDefinition.from_snapshot(snapshot).sampler.name == "tpe"


@pytest.mark.parametrize("text", [STUDY, DESIGN, GRID, OPEN], ids=["search", "design", "grid", "open"])
def test_a_snapshot_is_enough_to_work_on_the_study(root, text):
    study = define(root, text, overrides={"model.n_head": 6})
    snapshot = json.loads(json.dumps(study.snapshot()))
    shutil.rmtree(root / "studies")
    (root / "train_config.yaml").unlink()
    again = StudyDefinition.from_snapshot(snapshot)
    assert again == study
    assert again.identity() == study.identity()
    assert again.snapshot() == snapshot
    values = study.fixed_values(0)
    assert again.config_for(values) == study.config_for(values)
    assert again.base_config.model.n_head == 6


def test_a_stored_study_whose_seeds_ran_in_another_order_is_refused(root):
    older = {key: value for key, value in define(root, DESIGN).snapshot().items() if key != "scale"}
    with pytest.raises(ConfigError, match=r"made by a version with another order of seeds; make it anew$"):
        StudyDefinition.from_snapshot(older)
    without_seeds = define(root, DESIGN.replace("  seeds: [1337, 1338]\n", ""))
    older = {key: value for key, value in without_seeds.snapshot().items() if key != "scale"}
    assert StudyDefinition.from_snapshot(older) == without_seeds


def test_a_snapshot_of_another_schema_is_refused_in_one_line(root):
    snapshot = define(root, STUDY).snapshot()
    older = {**snapshot, "study": {**snapshot["study"], "patience": 3}}
    with pytest.raises(ConfigError, match=r"^study small in the storage: patience: unknown key"):
        StudyDefinition.from_snapshot(older)


def test_a_study_is_found_by_name_file_and_folder(root):
    write(root, STUDY, "by-name_1.0")
    for name in ("by-name_1.0", "studies/by-name_1.0/study.yaml", root / "studies" / "by-name_1.0"):
        assert load(name, root=root).name == "by-name_1.0"
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "study.yaml").write_text(STUDY, encoding="utf-8")
    assert load("elsewhere/study.yaml", root=root).name == "elsewhere"


def test_an_unknown_study_is_answered_with_those_there_are(root):
    write(root, STUDY, "one")
    write(root, STUDY, "two")
    (root / "studies" / "empty").mkdir()
    for name in ("three", "empty", "x/study.yaml"):
        with pytest.raises(UserError) as caught:
            load(name, root=root)
        assert str(caught.value) == f"study {name!r} does not exist; there are: one, two"


@pytest.mark.parametrize("name", ["..", ".", "", ".hidden", "-x", "a b", "a\nb", "ü", "*", "a\\b"])
def test_unsafe_names_are_refused(root, name):
    with pytest.raises(UserError, match="a name has letters, digits"):
        load(name, root=root)


def test_a_folder_whose_name_is_not_safe_is_refused(root):
    write(root, STUDY, "two words")
    with pytest.raises(UserError, match="a name has letters, digits"):
        load("studies/two words/study.yaml", root=root)


def test_reading_a_study_imports_no_torch():
    command = (
        "import sys; from service.study.definition import load; load('hn'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=False).returncode == 0
