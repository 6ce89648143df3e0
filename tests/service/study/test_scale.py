"""A study at the sizes that its file has for it, and the studies of the seed documents at theirs."""

import json
import shutil
from pathlib import Path

import pytest

from model.config.counts import parameter_count
from model.errors import UserError
from service.study.definition import StudyDefinition, load

ROOT = Path(__file__).resolve().parents[3]
STUDY = """\
question: Which shape?
fixed:
  tokenizer.vocab_size: 16000
  model.d_model: 512
  model.n_head: 8
  model.block_size: 128
design:
  list:
    - {arm: small, model.d_model: 384, optimizer.lr: 0.02}
    - {arm: short, model.block_size: 64, training.tokens: 90000}
  seeds: [1, 2]
scales:
  cpu:
    set: {data.source: docstrings, training.rungs: 4, evaluation.block_size: 16}
    map:
      model.d_model: {512: 64, 384: 48}
      model.block_size: {128: 32, 64: 16}
      training.tokens: {90000: 900}
"""
SEARCH = """\
question: q
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
scales:
  tiny: {set: {model.n_layer: 1}, map: {model.d_model: {192: 96}}}
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    shutil.copy(ROOT / "train_config.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def define(root: Path, text: str, **more) -> StudyDefinition:
    folder = root / "studies" / "shapes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    return load("shapes", root=root, **more)


def refusal(root: Path, text: str, **more) -> str:
    with pytest.raises(UserError) as caught:
        define(root, text, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_scale_changes_the_base_file_and_every_arm_and_keeps_the_design(root):
    published, reduced = define(root, STUDY), define(root, STUDY, scale="cpu")
    assert (published.name, published.scale) == ("shapes", None)
    assert (reduced.name, reduced.scale) == ("shapes-cpu", "cpu")
    assert reduced.arms == published.arms == ("baseline", "small", "short") * 2
    configs = [reduced.config_for(cell) for cell in reduced.cells]
    assert [(c.model.d_model, c.model.block_size, c.training.tokens, c.seed) for c in configs] == [
        (64, 32, None, 1),
        (48, 32, None, 1),
        (64, 16, 900, 1),
        (64, 32, None, 2),
        (48, 32, None, 2),
        (64, 16, 900, 2),
    ]
    for config in configs:
        assert (config.data.source, config.training.rungs, config.model.n_head) == ("docstrings", 4, 8)
        assert config.tokenizer.vocab_size == 16000
    assert [c.optimizer.lr for c in configs[:3]] == [1e-3, 0.02, 1e-3]


def test_the_command_line_wins_over_the_scale(root):
    study = define(root, STUDY, scale="cpu", overrides={"data.source": "file", "data.path": "a.txt"})
    assert study.base_config.data.source == "file"
    assert study.base_config.training.rungs == 4


def test_a_scale_for_a_search_changes_its_base_file(root):
    study = define(root, SEARCH, scale="tiny")
    assert (study.base_config.model.n_layer, study.base_config.model.d_model) == (1, 96)
    assert study.name == "shapes-tiny"


@pytest.mark.parametrize(("text", "scale"), [(STUDY, "cpu"), (SEARCH, "tiny")])
def test_a_snapshot_keeps_the_scale(root, text, scale):
    study = define(root, text, scale=scale)
    again = StudyDefinition.from_snapshot(json.loads(json.dumps(study.snapshot())))
    assert again == study
    assert again.identity() == study.identity() != define(root, text).identity()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "cpu:",
            "gpu:",
            "studies/shapes/study.yaml: scale 'cpu' does not exist; there are: gpu",
        ),
        (
            STUDY[STUDY.index("scales:") :],
            "",
            "studies/shapes/study.yaml: scale 'cpu' does not exist; there are: none",
        ),
        (
            "{512: 64, 384: 48}",
            "{512: 64}",
            "studies/shapes/study.yaml:16: model.d_model: has no entry for 384, which the study has",
        ),
        (
            "{512: 64, 384: 48}",
            "{384: 48}",
            "studies/shapes/study.yaml:16: model.d_model: has no entry for 512, which the study has",
        ),
        (
            "{512: 64, 384: 48}",
            "{512: 64, 384: 48, 192: 24}",
            "study.yaml:16: model.d_model: 192: has no effect, no run has this value",
        ),
        (
            "model.d_model: {512",
            "model.width: {512",
            "study.yaml:16: model.width: unknown key, allowed: activation",
        ),
        ("training.rungs: 4", "training.rung: 4", "study.yaml:14: training.rung: unknown key, did you mean"),
        (
            "training.rungs: 4",
            "model.d_model: 4",
            "needs either set or map for a key, given both for model.d_",
        ),
        (
            "training.rungs: 4",
            "optimizer.lr: 0.5",
            "study.yaml:14: optimizer.lr: varied by the study, cannot be set for all trials",
        ),
        (
            "training.rungs: 4",
            "optimizer.momentum: 0.5",
            "study.yaml:14: optimizer.momentum: has no effect in any trial of this study",
        ),
        (
            "384: 48",
            "384: 50",
            "study.yaml:9: at model.d_model 50, optimizer.lr 0.02, seed 1: model: d_model",
        ),
        (
            "64: 16}",
            "64: 8}",
            "study.yaml:10: at training.epochs null, training.tokens 900, training.steps n",
        ),
        (
            "{90000: 900}",
            "{}",
            "study.yaml:18: scales.cpu.map.training.tokens: Dictionary should have at least 1",
        ),
    ],
)
def test_a_fault_in_a_scale_is_told_in_one_line(root, old, new, message):
    assert STUDY.count(old) == 1
    assert message in refusal(root, STUDY.replace(old, new), scale="cpu")


def test_what_is_searched_cannot_be_mapped(root):
    text = SEARCH.replace("model.d_model: {192: 96}", "optimizer.lr: {1.0e-3: 0.5}")
    assert "optimizer.lr: varied by the study" in refusal(root, text, scale="tiny")


def test_what_is_fixed_may_have_no_effect_at_a_scale(root):
    text = STUDY.replace("fixed:", "fixed:\n  optimizer.name: sgd\n  optimizer.momentum: 0.5").replace(
        "set: {", "set: {optimizer.name: adamw, "
    )
    assert define(root, text).base_config.optimizer.momentum == 0.5
    assert define(root, text, scale="cpu").base_config.optimizer.name == "adamw"


def test_a_scale_whose_study_would_have_no_safe_name_is_refused(root):
    assert "a name has letters, digits" in refusal(root, STUDY.replace("cpu:", "a b:"), scale="a b")


SEEDS = ("ladder", "epics", "ablations15", "lr-batch")


@pytest.mark.parametrize("name", SEEDS)
def test_the_studies_of_the_seed_documents_keep_their_design_at_the_size_for_a_cpu(name):
    published, reduced = load(name), load(name, scale="cpu")
    assert published.arms == reduced.arms
    seeds = len(published.arms) // len(set(published.arms))
    assert published.arms == published.arms[: len(published.arms) // seeds] * seeds
    assert seeds >= 2
    for large, small in zip(published.cells, reduced.cells, strict=True):
        before, after = published.config_for(large), reduced.config_for(small)
        assert parameter_count(after) < parameter_count(before) / 40
        assert after.optimizer == before.optimizer
        assert after.schedule == before.schedule
        assert after.seed == before.seed
    assert reduced.base_config.data.source == "docstrings"
    assert reduced.base_config.tokenizer.pretrained is None


def configs_of(name):
    study = load(name)
    return {arm: study.config_for(cell) for arm, cell in zip(study.arms, study.cells, strict=True)}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        (
            "ladder",
            {"1 SGD baseline": 27_172_864, "7 size I": 12_208_128, "8 size II": 2_560_128},
        ),
        # rotary positions have no parameters, RMSNorm has no biases: 13 norms of 512
        ("epics", {"champion": 27_172_864, "Epic 2": 27_172_864 - 128 * 512 - 13 * 512}),
        # the published counts, and 256 rows of the embedding more: bytes that SmolLM's tokenizer lacks
        (
            "ablations15",
            {
                "baseline as run": 40_117_632 + 256 * 384,
                "small_model as described": 18_878_720 + 256 * 256,
            },
        ),
        ("lr-batch", {"lr 3e-5 batch 20": 136_210_435}),
    ],
)
def test_models_at_published_size_have_the_published_parameters(name, parameters):
    configs = configs_of(name)
    assert {arm: parameter_count(configs[arm]) for arm in parameters} == parameters


def test_the_ladders_budgets_are_seven_epochs_of_each_vocabulary():
    configs = configs_of("ladder")
    # 134 and 345 batches an epoch, as the original counted them: whole batches of its train split
    assert configs["3 AdamW"].with_token_budget(134 * 64 * 128).total_steps == 938
    assert configs["7 size I"].with_token_budget(345 * 64 * 64).total_steps == 2415
    assert configs["AdamW at SAM's compute"].with_token_budget(134 * 64 * 128).total_steps == 2 * 938


def test_the_ladders_controls_differ_in_what_they_isolate():
    configs = configs_of("ladder")
    plain = configs["AdamW with SAM's settings"].model_dump()
    for arm in ("5 SAM", "6 ASAM", "ASAM rho 0.5", "ASAM rho 1", "ASAM rho 2"):
        sharp = configs[arm].model_dump()
        sharp["optimizer"]["sharpness"] = plain["optimizer"]["sharpness"]
        assert sharp == plain
    assert [configs[f"ASAM rho {rho}"].optimizer.sharpness.rho for rho in ("0.5", "1", "2")] == [0.5, 1, 2]
    longer = configs["AdamW at SAM's compute"].model_dump()
    longer["training"]["epochs"] = 7
    assert longer == plain


def test_epic_2_is_factored_whole():
    configs = configs_of("epics")
    arms = [arm for arm in configs if arm.startswith(("LN", "RMS"))] + ["Epic 1", "Epic 2"]
    models = {(m.norm, m.positions, m.init) for m in (configs[arm].model for arm in arms)}
    assert len(arms) == len(models) == 8
    assert len({configs[arm].optimizer for arm in arms}) == 1


@pytest.mark.parametrize(
    ("arm", "tokens"),
    [
        ("baseline as run", 8_192_000),
        ("large_batch as run", 16_384_000),
        ("short_seq as described", 6_144_000),
        ("small_model as described", 12_288_000),
        ("large_batch equal tokens", 8_192_000),
        ("small_model equal tokens", 8_192_000),
        ("short_seq equal tokens", 8_192_000),
    ],
)
def test_the_ablations_see_the_published_tokens(arm, tokens):
    config = configs_of("ablations15")[arm].with_token_budget(0)
    assert config.budget_tokens == tokens
