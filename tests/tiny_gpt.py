"""A GPT of a few thousand weights, for tests of what its options do."""

import torch
from torch import nn

from model.config.train_config import TrainConfig
from model.network.gpt import GPT

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


def torchs_encoder_layer(block, n_head, *, d_ff, activation, norm_first):
    """torch's own layer of the same kind, with the weights of this block in fp64, without dropout."""
    d_model = block.attention.projection.in_features
    theirs = nn.TransformerEncoderLayer(
        d_model, n_head, d_ff, 0.0, activation, batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    names = {
        "self_attn.in_proj_": "attention.query_key_value.",
        "self_attn.out_proj.": "attention.projection.",
        "linear1.": "mlp.up.",
        "linear2.": "mlp.down.",
        "norm1.": "attention_norm.",
        "norm2.": "mlp_norm.",
    }
    state = block.state_dict()
    theirs.load_state_dict({t + k: state[o + k] for t, o in names.items() for k in ("weight", "bias")})
    return theirs
