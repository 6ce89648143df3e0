"""What a parameter is for. It follows from the type of the module that owns it and never from its name."""

from typing import Literal, get_args

from torch import Tensor, nn

from model.network.attention import ValueMixture
from model.network.gpt import LayerScale, OutputHead

Role = Literal["matrices", "head", "biases", "norms", "scales", "embeddings", "other"]
"""`head` is the matrix of an untied output head; `scales` are factors on whole branches, which never decay."""


def parameters_by_role(model: nn.Module) -> dict[Role, list[Tensor]]:
    """Every parameter of `model` in exactly one role, the roles without any left out.

    A parameter that several modules share, such as an embedding that is also the weight of a linear output
    head, counts once and is one of the matrices only if it is one everywhere.
    """
    role_of: dict[Tensor, Role] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            role = _role(module, is_bias=name == "bias")
            if role_of.get(parameter, "matrices") == "matrices":
                role_of[parameter] = role
    roles: dict[Role, list[Tensor]] = {}
    for wanted in get_args(Role):
        if tensors := [parameter for parameter, role in role_of.items() if role == wanted]:
            roles[wanted] = tensors
    placed = [id(parameter) for tensors in roles.values() for parameter in tensors]
    assert sorted(placed) == sorted(map(id, model.parameters())), "every parameter has exactly one role"
    return roles


def _role(module: nn.Module, *, is_bias: bool) -> Role:
    match module:
        case nn.Linear() if is_bias:
            return "biases"
        case OutputHead():
            return "head"
        case nn.Linear():
            return "matrices"
        case nn.LayerNorm() | nn.RMSNorm():
            return "norms"
        case LayerScale() | ValueMixture():
            return "scales"
        case nn.Embedding():
            return "embeddings"
        case _:
            return "other"
