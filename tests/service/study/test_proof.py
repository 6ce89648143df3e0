import time
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config.settings_without_effect import settings_without_effect
from model.config.yaml_tree import read
from model.errors import ConfigError
from service.study.base import Base
from service.study.parameters import CategoricalParameter, FloatParameter, IntParameter
from service.study.proof import MAX_COMBINATIONS, RANDOM_POINTS, prove_cells, prove_space
from service.study.search_space import SearchSpace

BASE = Base.of(read(Path(__file__).resolve().parents[3] / "train_config.yaml"))


def choice(*choices, when=None):
    return CategoricalParameter(type="categorical", choices=choices, when=when or {})


def real(low, high, when=None, **more):
    return FloatParameter(type="float", low=low, high=high, when=when or {}, **more)


def whole(low, high, when=None, **more):
    return IntParameter(type="int", low=low, high=high, when=when or {}, **more)


def prove(parameters, base=BASE):
    places = {key: f"study.yaml:{line}" for line, key in enumerate(parameters, start=1)}
    return prove_space(SearchSpace(parameters, places), base)


def refusal(parameters, base=BASE):
    with pytest.raises(ConfigError) as caught:
        prove(parameters, base)
    return str(caught.value)


FAULTS = [
    (
        {"optimizer.lr": real(1e-4, 1e-2), "model.d_model": choice(192, 384), "model.n_head": choice(4, 5)},
        "study.yaml:3: at model.n_head 5: model: d_model must be divisible by n_head, "
        "given d_model 192 and n_head 5",
    ),
    (
        {"model.d_model": choice(192, 200), "model.n_head": choice(4, 5), "model.n_layer": whole(1, 2)},
        "study.yaml:1: at model.d_model 192, model.n_head 5: model: d_model must be divisible by n_head, "
        "given d_model 192 and n_head 5",
    ),
    (
        # fine at the corners, not between them
        {"model.n_head": whole(2, 4)},
        None,
    ),
    (
        {"optimizer.lr": real(1e-4, 1e-2), "model.n_head": whole(3, 6)},
        "study.yaml:2: at model.n_head 5: model: d_model must be divisible by n_head, "
        "given d_model 192 and n_head 5",
    ),
    (
        # no value of it will do
        {"optimizer.lr": real(1e-4, 1e-2), "model.block_size": choice(16, 32)},
        "study.yaml:2: at model.block_size 16: (top level): evaluation.block_size must be at most "
        "model.block_size (there are no more positions), given 64 and 16",
    ),
    (
        {"optimizer.lr": real(0, 1e-2)},
        "study.yaml:1: at optimizer.lr 0.0: optimizer.lr: must be greater than 0, given 0.0",
    ),
    (
        {"optimizer.betas": choice([0.9, 0.95], [0.9, 1.0])},
        "study.yaml:1: at optimizer.betas [0.9, 1.0]: optimizer: betas must be at least 0 and below 1, "
        "given [0.9, 1.0]",
    ),
    (
        {"model.dropout": choice(0.1, "high")},
        'study.yaml:1: at model.dropout high: model.dropout: must be a number, given "high"',
    ),
    (
        {"model.n_layer": real(1, 2)},
        "study.yaml:1: at model.n_layer 1.0: model.n_layer: must be an integer written without a point or an exponent, "
        "given 1.0",
    ),
    (
        {"schedule.decay": choice("cosine", "wsd"), "schedule.warmup_fraction": real(0.0, 0.9)},
        "study.yaml:1: at schedule.decay wsd, schedule.warmup_fraction 0.9: schedule: "
        "warmup_fraction + decay_fraction must be at most 1, given 0.9 + 0.2",
    ),
    ({"optimizer.lrr": real(1, 2)}, "study.yaml:1: optimizer.lrr: unknown key, did you mean 'optimizer.lr'?"),
    ({"rho": real(1, 2)}, "study.yaml:1: rho: unknown key, did you mean 'optimizer.sharpness.rho'?"),
    ({"lr": real(1, 2)}, "study.yaml:1: lr: unknown key, did you mean 'optimizer.lr'?"),
    (
        {"model.learning_rate": real(1, 2)},
        "study.yaml:1: model.learning_rate: unknown key, did you mean 'optimizer.lr'?",
    ),
    (
        {"model": choice(1, 2)},
        "study.yaml:1: model: a section, not a key, did you mean 'model.activation'?",
    ),
    (
        {"optimizer.sharpness.rho": real(0.1, 1)},
        "study.yaml:1: optimizer.sharpness.rho: has no effect; take it out of the space",
    ),
    (
        {
            "optimizer.sharpness.rho": real(0.1, 1),
            "optimizer.sharpness.method": choice("none", "sam", "asam"),
        },
        "study.yaml:1: optimizer.sharpness.rho: has no effect at optimizer.sharpness.method none; "
        "give it when: {optimizer.sharpness.method: [sam, asam]}",
    ),
    (
        {
            "optimizer.sharpness.method": choice("sam", "asam"),
            "optimizer.sharpness.same_dropout": choice(True, False),
            "model.dropout": real(0, 0.1),
        },
        "study.yaml:2: optimizer.sharpness.same_dropout: has no effect at model.dropout 0.0; "
        "take it out of the space",
    ),
]


@pytest.mark.parametrize(
    ("parameters", "message"), FAULTS, ids=lambda x: " ".join(x) if isinstance(x, dict) else ""
)
def test_a_fault_names_place_blame_and_reason(parameters, message):
    if message is None:
        assert prove(parameters).points > RANDOM_POINTS
    else:
        assert refusal(parameters) == message


@pytest.mark.parametrize(
    "key",
    [
        "data.seed",
        "data.hub.id",
        "tokenizer.pretrained",
        "evaluation.block_size",
        "training.epochs",
        "training.tokens",
        "training.steps",
        "training.rungs",
    ],
)
def test_what_trials_are_compared_by_cannot_be_searched(key):
    assert refusal({key: choice(64, 32)}) == (
        f"study.yaml:1: {key}: no trial may change it, because trials would not be comparable; "
        "give it under `fixed`"
    )
    with pytest.raises(ConfigError, match="would not be comparable"):
        prove_cells([{key: 5}], BASE, ["study.yaml:1"])


def test_arms_may_have_budgets_of_their_own_where_nothing_is_pruned():
    cells = [{"training.epochs": 3}, {"training.epochs": None, "training.steps": 5, "training.rungs": 2}]
    assert prove_cells(cells, BASE, ["a", "b"], own_budgets=True).points == 2
    with pytest.raises(ConfigError, match=r"evaluation\.batch_size: no trial may change it"):
        prove_cells([{"evaluation.batch_size": 5}], BASE, ["a"], own_budgets=True)


def test_the_seed_is_varied_by_designs_alone():
    assert "seed: not a parameter to search" in refusal({"seed": whole(1, 9)})
    assert prove_cells([{"seed": 1}, {"seed": 2}], BASE, ["a", "b"]).points == 2


def test_the_condition_that_is_proposed_mends_the_space():
    parameters = {
        "optimizer.sharpness.rho": real(0.1, 1, when={"optimizer.sharpness.method": ("sam", "asam")}),
        "optimizer.sharpness.method": choice("none", "sam", "asam"),
    }
    assert "optimizer.sharpness.rho" not in prove(parameters).without_effect


def test_the_proof_counts_its_points_and_says_what_never_matters():
    proof = prove({"optimizer.lr": real(1e-4, 1e-2), "optimizer.name": choice("adamw", "muon")})
    assert proof.points == 4 + 4 + RANDOM_POINTS  # each corner alone, their combinations, random ones
    assert "schedule.decay_fraction" in proof.without_effect
    assert "optimizer.momentum" not in proof.without_effect


def test_a_large_space_is_proven_in_a_few_seconds():
    names = ["dropout", "n_layer"]
    parameters = {f"model.{names[0]}": real(0, 0.3), f"model.{names[1]}": whole(1, 12)}
    for key in ("optimizer.lr", "optimizer.weight_decay", "optimizer.eps", "schedule.floor_fraction"):
        parameters[key] = choice(*[i / 1000 for i in range(1, 12)])
    began = time.process_time()
    proof = prove(parameters)
    # 2**2 * 11**4 combinations are too many: as many random corners stand for them
    assert proof.points == 2 * 2 + 4 * 11 + MAX_COMBINATIONS + RANDOM_POINTS
    assert time.process_time() - began < 10  # 0.4 s on the machine it was written on


WIDTHS = st.lists(st.sampled_from([48, 96, 144, 192, 200]), min_size=2, max_size=3, unique=True)
HEADS = st.lists(st.sampled_from([2, 3, 4, 6, 8]), min_size=2, max_size=3, unique=True)
METHODS = st.lists(st.sampled_from(["none", "sam", "asam"]), min_size=2, max_size=3, unique=True)


@settings(max_examples=25)
@given(WIDTHS, HEADS, METHODS, st.sampled_from([True, True, False]), st.integers(0, 2**31))
def test_every_point_of_a_proven_space_is_valid_and_every_refused_space_has_a_bad_one(
    widths, heads, methods, conditional, seed
):
    sharp = tuple(method for method in methods if method != "none")
    when = {"optimizer.sharpness.method": sharp} if conditional else None
    space = SearchSpace(
        {
            "optimizer.lr": real(1e-5, 1.0, log=True),
            "model.d_model": choice(*widths),
            "model.n_head": choice(*heads),
            "optimizer.sharpness.method": choice(*methods),
            "optimizer.sharpness.rho": real(0.01, 2.0, log=True, when=when),
        }
    )
    divisible = all(width % head == 0 for width in widths for head in heads)
    effective = conditional or "none" not in methods
    if not (divisible and effective):
        with pytest.raises(ConfigError):
            prove_space(space, BASE)
        return
    assert prove_space(space, BASE).points > RANDOM_POINTS
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(20):
        values = space.suggest(study.ask())
        config = BASE.config_for(values)
        assert not set(values) & settings_without_effect(config)


@given(st.dictionaries(st.sampled_from(["seed", "model.n_layer", "training.batch_size"]), st.integers(1, 3)))
def test_cells_are_proven_and_must_differ(cell):
    assert prove_cells([cell], BASE, ["a"]).points == 1
    with pytest.raises(ConfigError, match=r"^b: at .*: the same configuration as at a$"):
        prove_cells([cell, dict(cell)], BASE, ["a", "b"])


def test_cells_that_only_look_different_are_the_same_configuration():
    layers = BASE.config.model.n_layer
    with pytest.raises(ConfigError, match=r"^b: at model\.n_layer 4: the same configuration as at a$"):
        prove_cells([{}, {"model.n_layer": layers}], BASE, ["a", "b"])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"model.n_head": 5}, "a: at model.n_head 5: model: d_model must be divisible"),
        ({"model.heads": 5}, "a: model.heads: unknown key"),
        (
            {"optimizer.sharpness.rho": 0.1, "seed": 3},
            "a: optimizer.sharpness.rho: has no effect at optimizer.sharpness.rho 0.1, seed 3",
        ),
    ],
)
def test_a_bad_cell_is_refused_at_its_place(cell, message):
    with pytest.raises(ConfigError) as caught:
        prove_cells([cell], BASE, ["a"])
    assert str(caught.value).startswith(message)
