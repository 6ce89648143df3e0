import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config.counts import parameter_count
from model.config.section import validate
from model.config.train_config import TrainConfig
from model.config.yaml_tree import Document, read
from model.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def leaves(tree, prefix=()):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


def config(**overrides):
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    return validate(Document("base", {}).with_overrides({"training.epochs": 7, **values}), TrainConfig)


def test_the_file_in_the_repository_has_every_key_and_the_defaults():
    document = read(ROOT / "train_config.yaml")
    assert validate(document, TrainConfig) == TrainConfig()
    assert set(leaves(document.tree)) == set(leaves(TrainConfig().model_dump(mode="json")))


def test_the_schema_imports_no_torch():
    command = "import sys, model.config.train_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.n_head": 5}, "model: d_model must be divisible by n_head, given d_model 192 and n_head 5"),
        ({"model.dropout": 1.0}, "model.dropout: must be less than 1, given 1.0"),
        ({"model.n_layer": 0}, "model.n_layer: must be greater than or equal to 1, given 0"),
        (
            {"model.d_model": 180, "model.n_head": 4, "model.positions": "rope"},
            "model: positions rope turn pairs: d_model / n_head must be even, given d_model 180 and n_head 4",
        ),
        (
            {"model.d_model": 15, "model.positions": "sinusoidal"},
            "model: positions sinusoidal come in pairs: d_model must be even, given d_model 15 and n_head 3",
        ),
        ({"model.norm": "batchnorm"}, "model.norm: given \"batchnorm\", allowed: 'layernorm', 'rmsnorm'"),
        (
            {"training.tokens": 10},
            "training: needs one of epochs, tokens and steps, the others null, "
            "given epochs 7.0, tokens 10 and steps None",
        ),
        ({"training.steps": 5}, "given epochs 7.0, tokens None and steps 5"),
        (
            {"training.epochs": None},
            "training: needs one of epochs, tokens and steps, the others null, given",
        ),
        ({"training.batch_size": 1.5}, "training.batch_size: must be an integer, given 1.5"),
        ({"evaluation.block_size": 65}, "evaluation.block_size must be at most model.block_size"),
        ({"schedule.floor_lr": 0.01}, "schedule.floor_lr must be at most optimizer.lr, given 0.01 and 0.001"),
        ({"sed": 1}, "sed: unknown key, did you mean 'seed'?"),
        (
            {"seed": 2**64},
            "seed: must be less than or equal to 18446744073709551615, given 18446744073709551616",
        ),
        ({"training.rungs": 10**9}, "training.rungs: must be less than or equal to 10000, given 1000000000"),
    ],
)
def test_what_cannot_be_trained_is_refused(overrides, message):
    document = read(ROOT / "train_config.yaml").with_overrides(overrides)
    with pytest.raises(ConfigError) as caught:
        validate(document, TrainConfig)
    assert message in str(caught.value)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig().seed = 2


def test_the_parameter_count_is_that_of_gpt2_small():
    # 124,439,808: GPT-2 small as published, vocabulary 50,257 and 1,024 positions, head tied.
    small = config(
        tokenizer__vocab_size=50_257,
        model__n_layer=12,
        model__n_head=12,
        model__d_model=768,
        model__block_size=1_024,
    )
    assert parameter_count(small) == 124_439_808


BUDGETS = st.integers(1, 10**9)


@given(BUDGETS, st.integers(1, 40), st.integers(1, 256), st.integers(64, 512))
def test_rungs_rise_to_the_budget_and_are_the_same_for_every_batch(tokens, rungs, batch, block):
    run = config(
        training__epochs=None,
        training__tokens=tokens,
        training__rungs=rungs,
        training__batch_size=batch,
        model__block_size=block,
    )
    assert run.rungs[-1] == tokens
    assert len(run.rungs) == min(rungs, tokens)
    assert all(low < high for low, high in zip((0, *run.rungs), run.rungs, strict=False))
    # evenly spaced: no two gaps differ by more than a token
    gaps = [high - low for low, high in zip((0, *run.rungs), run.rungs, strict=False)]
    assert max(gaps) - min(gaps) <= 1
    other = run.model_copy(update={"training": run.training.model_copy(update={"batch_size": 1})})
    assert other.rungs == run.rungs


@given(BUDGETS, st.integers(1, 40), st.integers(1, 256))
def test_the_steps_spend_the_budget_and_no_more(tokens, rungs, batch):
    run = config(
        training__epochs=None, training__tokens=tokens, training__rungs=rungs, training__batch_size=batch
    )
    per_step = batch * 64
    assert run.tokens_per_step == per_step
    assert run.total_steps * per_step <= tokens or run.total_steps == 1
    assert (run.total_steps + 1) * per_step > tokens
    for rung in run.rungs:
        step = run.rung_step(rung)
        assert 1 <= step <= run.total_steps
        assert step * per_step >= rung or step == run.total_steps
        assert (step - 1) * per_step < rung
    assert run.rung_step(tokens) == run.total_steps


def test_steps_become_the_tokens_of_as_many_whole_steps():
    run = config(training__epochs=None, training__steps=30, training__batch_size=20, model__block_size=128)
    whatever = run.with_token_budget(1_000)
    assert (whatever.budget_tokens, whatever.total_steps) == (30 * 20 * 128, 30)
    assert (whatever.training.steps, whatever.training.epochs) == (None, None)


def test_epochs_become_tokens_once():
    run = config(training__epochs=2.5).with_token_budget(1_000)
    assert (run.training.epochs, run.budget_tokens) == (None, 2_500)
    assert run.with_token_budget(7).budget_tokens == 2_500
    assert config(training__epochs=0.001).with_token_budget(10).budget_tokens == 1
