import pytest
from torch import nn

from model.optimization.roles import parameters_by_role
from tests.model.optimization.test_optimizer import SCALED, TinyGPT, gpt


def test_roles_follow_module_types_and_not_names():
    model = TinyGPT()
    roles = parameters_by_role(model)
    block = model.blocks[1]
    assert {role: len(tensors) for role, tensors in roles.items()} == {
        "matrices": 4,
        "biases": 4,
        "norms": 6,
        "embeddings": 2,
        "other": 1,
    }
    assert any(p is block.up.weight for p in roles["matrices"])
    assert any(p is block.before.bias for p in roles["norms"])
    assert any(p is model.second.weight for p in roles["embeddings"])
    assert roles["other"][0] is model.gain


@pytest.mark.parametrize("head_first", [False, True])
def test_an_embedding_shared_with_a_linear_head_is_an_embedding_once(head_first):
    embedding, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(head, embedding) if head_first else nn.Sequential(embedding, head)
    roles = parameters_by_role(model)
    assert list(roles) == ["embeddings"]
    assert len(roles["embeddings"]) == 1


def test_roles_of_every_kind_of_norm_and_head():
    model = gpt(norm="rmsnorm", tied=False)
    roles = parameters_by_role(model)
    block = model.blocks[0]
    assert {role: len(tensors) for role, tensors in roles.items()} == {
        "matrices": 8,
        "head": 1,
        "biases": 9,
        "norms": 5,
        "embeddings": 2,
    }
    assert roles["head"][0] is model.head.weight
    assert any(p is model.head.bias for p in roles["biases"])
    assert any(p is block.attention_norm.weight for p in roles["norms"])
    gated = parameters_by_role(gpt(activation="swiglu", bias=False, positions="rope"))
    assert {role: len(tensors) for role, tensors in gated.items()} == {
        "matrices": 10,
        "norms": 5,
        "embeddings": 1,
    }


def test_a_gate_is_a_matrix_and_factors_on_branches_are_scales():
    model = gpt(**SCALED)
    roles, block = parameters_by_role(model), model.blocks[1]
    assert len(roles["scales"]) == 2 * 2 + 1
    assert any(p is block.mlp_scale.factors for p in roles["scales"])
    assert any(p is block.attention.value_mixture.shares for p in roles["scales"])
    assert any(p is block.attention.output_gate.weight for p in roles["matrices"])
    assert any(p is block.attention.output_gate.bias for p in roles["biases"])
    assert any(p is block.attention.key_norm.weight for p in roles["norms"])
