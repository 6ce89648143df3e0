"""A GPT of a few thousand weights, for tests of what its options do."""

import torch

from model.config import TrainConfig
from model.gpt import GPT

VOCAB, BLOCK, EOS = 300, 12, 299


def tiny_config(**shape):
    shape = {"n_layer": 2, "n_head": 2, "d_model": 16, "block_size": BLOCK, "dropout": 0.0} | shape
    return TrainConfig(
        tokenizer={"vocab_size": VOCAB}, model=shape, evaluation={"block_size": shape["block_size"]}
    )


def tiny_gpt(**shape):
    """A GPT whose weights are large enough for every part to matter, in evaluation mode, in fp64."""
    model = GPT(tiny_config(**shape), seed=0, eos_id=EOS).eval().double()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def stream(*shape, seed=2):
    """Tokens without an `<eos>`."""
    return torch.randint(EOS, shape, generator=torch.Generator().manual_seed(seed))
