import math

import pytest
import torch
from torch import nn

from model.config.architecture import ModelConfig
from model.config.counts import parameter_count
from model.config.data import TokenizerConfig
from model.config.train_config import TrainConfig
from model.network.attention import Attention
from model.network.gpt import GPT, Block
from model.network.loss import cross_entropy
from tests.tiny_gpt import torchs_encoder_layer

VOCAB, BLOCK = 300, 8


pytestmark = pytest.mark.usefixtures("one_thread")


def tiny_config(*, vocab=VOCAB, n_layer=2, n_head=2, d_model=16, block=BLOCK, dropout=0.0):
    return TrainConfig(
        tokenizer=TokenizerConfig(vocab_size=vocab),
        model=ModelConfig(n_layer=n_layer, n_head=n_head, d_model=d_model, block_size=block, dropout=dropout),
        evaluation={"block_size": min(block, 64)},
    )


def tiny_gpt(**shape):
    """A GPT in evaluation mode whose weights are large enough for every part to matter."""
    model = GPT(tiny_config(**shape), seed=0).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def random_tokens(*shape, vocab=VOCAB):
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("shape", "count"),
    [  # as the seed documents report them
        ({"n_layer": 6, "n_head": 8, "d_model": 512, "block": 128, "vocab": 16000}, 27_172_864),
        ({"n_layer": 6, "n_head": 6, "d_model": 384, "block": 64, "vocab": 4000}, 12_208_128),
        ({"n_layer": 4, "n_head": 3, "d_model": 192, "block": 64, "vocab": 4000}, 2_560_128),
    ],
)
def test_parameter_counts_are_the_published_ones(shape, count):
    config = tiny_config(**shape)
    assert parameter_count(config) == count
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(config, seed=0).parameters()) == count


def test_initial_weights_follow_from_the_seed_and_leave_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    one, same, other = (GPT(tiny_config(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["token_embedding.weight"], other["token_embedding.weight"])


def test_initial_weights_have_the_seed_documents_distribution():
    model = GPT(tiny_config(d_model=64), seed=0)
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)] + [
        model.token_embedding.weight
    ]
    for weight in matrices:
        # the standard error of a standard deviation is std / sqrt(2n); n is at least 4096: five of them
        assert weight.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(2 * 4096))
    assert not model.position_embedding.weight.any()
    assert not any(m.bias.any() for m in model.modules() if isinstance(m, nn.Linear))


def test_initial_loss_is_that_of_guessing():
    model, tokens = GPT(tiny_config(), seed=0), random_tokens(32, BLOCK + 1)
    loss = cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).mean().item()
    # logits are of size 4 (the norm of the last LayerNorm's output) × 0.02, so the loss is off by their
    # variance / 2 and by the noise of 256 targets
    assert loss == pytest.approx(math.log(VOCAB), abs=0.03)


def test_attention_is_a_masked_softmax_over_each_head():
    torch.manual_seed(0)
    d_model, n_head, length = 12, 3, 7
    attention = Attention(ModelConfig(d_model=d_model, n_head=n_head, dropout=0.0)).double()
    x_TD = torch.randn(length, d_model, dtype=torch.float64)
    query, key, value = attention.query_key_value(x_TD).split(d_model, dim=-1)
    width = d_model // n_head
    expected = torch.zeros(length, d_model, dtype=torch.float64)
    for head in range(n_head):
        part = slice(head * width, (head + 1) * width)
        for t in range(length):
            scores = torch.stack([query[t, part] @ key[s, part] for s in range(t + 1)]) / math.sqrt(width)
            shares = torch.exp(scores) / torch.exp(scores).sum()
            expected[t, part] = sum(shares[s] * value[s, part] for s in range(t + 1))
    # fp64 rounding over a dozen terms
    torch.testing.assert_close(attention(x_TD[None])[0], attention.projection(expected), rtol=0, atol=1e-12)


def test_block_equals_torchs_pre_norm_encoder_layer():
    torch.manual_seed(0)
    d_model, n_head, length = 12, 3, 7
    block = Block(ModelConfig(d_model=d_model, n_head=n_head, dropout=0.0)).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    theirs = torchs_encoder_layer(block, n_head, d_ff=4 * d_model, activation="gelu", norm_first=True)
    x_BTD = torch.randn(2, length, d_model, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(length, dtype=torch.float64)
    torch.testing.assert_close(block(x_BTD), theirs(x_BTD, src_mask=mask, is_causal=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", range(1, BLOCK))
def test_logits_depend_on_past_tokens_and_not_on_future_ones(t):
    model, tokens = tiny_gpt(), random_tokens(1, BLOCK)
    changed = tokens.clone()
    changed[0, t] = (changed[0, t] + 1) % VOCAB
    before, after = model(tokens), model(changed)
    # the same kernels on the same shapes: not a bit of the past may move
    assert torch.equal(before[:, :t], after[:, :t])
    assert all((before[0, s] - after[0, s]).abs().max() > 1e-4 for s in range(t, BLOCK))


def test_order_of_past_tokens_matters_through_position_embeddings_alone():
    model = tiny_gpt(n_layer=1)  # in deeper models the causal mask gives some order away
    tokens = torch.arange(BLOCK)[None]
    swapped = torch.tensor([[3, 1, 2, 0, *range(4, BLOCK)]])
    assert (model(tokens)[0, -1] - model(swapped)[0, -1]).abs().max() > 1e-2
    nn.init.zeros_(model.position_embedding.weight)
    # one softmax whose terms are added in another order: fp32 rounding
    torch.testing.assert_close(model(tokens)[0, -1], model(swapped)[0, -1], rtol=1e-4, atol=1e-4)


def test_output_head_is_the_token_embedding():
    model, tokens = tiny_gpt(), random_tokens(2, BLOCK)
    expected = torch.einsum("btd,vd->btv", model.hidden(tokens), model.token_embedding.weight)
    torch.testing.assert_close(model(tokens), expected, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_and_not_in_evaluation():
    tokens = random_tokens(2, BLOCK)
    dropping, plain = tiny_gpt(dropout=0.5), tiny_gpt(dropout=0.0)
    assert torch.equal(dropping(tokens), dropping(tokens))
    assert torch.equal(dropping(tokens), plain(tokens))
    dropping.train()
    assert not torch.equal(dropping(tokens), dropping(tokens))


def test_cross_entropy_is_the_negative_log_likelihood_and_0_for_ignored_targets():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, -1, 4], [-1, 2, 3]])
    losses = cross_entropy(logits, targets)
    assert losses.shape == (2, 3)
    for b in range(2):
        for t in range(3):
            target = int(targets[b, t])
            row = [math.exp(value) for value in logits[b, t].tolist()]
            expected = -math.log(row[target] / sum(row)) if target >= 0 else 0.0
            assert losses[b, t].item() == pytest.approx(expected, rel=1e-5, abs=0)  # fp32


def test_cross_entropy_of_short_floats_is_computed_in_fp32():
    logits = torch.randn(1, 4, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.tensor([[1, 2, 3, 4]])
    losses = cross_entropy(logits, targets)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, cross_entropy(logits.float(), targets))


def gpt_with_logits(logits_V):
    """A GPT that gives the same logits after every context: its last norm is turned into a constant."""
    model = GPT(tiny_config(n_layer=1), seed=0)
    with torch.no_grad():
        model.final_norm.weight.zero_()
        model.final_norm.bias.zero_()
        model.final_norm.bias[0] = 1.0
        model.token_embedding.weight[:, 0] = logits_V
    return model


def draw(model, *, end, max_tokens=40, seed=0, temperature=1.0, prompt=(1,)):
    (drawn,) = model.generate(
        list(prompt), end=end, max_tokens=max_tokens, temperature=temperature, seeds=[seed]
    )
    return drawn


def test_generate_never_draws_ids_above_the_end():
    logits = torch.zeros(VOCAB)
    logits[20] = -1e4  # the end
    logits[21:] = 50.0  # ids the tokenizer has no entry for, and that the model would love to say
    drawn = draw(gpt_with_logits(logits), end=20, max_tokens=200)
    assert len(drawn) == 200
    assert set(drawn) == set(range(20))  # 200 draws miss one of 20 ids with a chance of 20 × 0.95^200 < 0.1 %


def test_generate_stops_at_the_end_and_does_not_return_it():
    logits = torch.full((VOCAB,), -1e4)
    logits[20], logits[5] = math.log(0.25), math.log(0.75)
    model, lengths = gpt_with_logits(logits), []
    for seed in range(80):
        drawn = draw(model, end=20, seed=seed)
        assert set(drawn) <= {5}
        lengths.append(len(drawn))
    # geometric with mean 3 and standard deviation sqrt(12): five standard errors
    assert sum(lengths) / 80 == pytest.approx(3, abs=5 * math.sqrt(12 / 80))


def test_generate_divides_the_logits_by_the_temperature():
    logits = torch.full((VOCAB,), -1e4)
    logits[3], logits[4] = 0.0, 1.0
    drawn = draw(gpt_with_logits(logits), end=20, temperature=0.5, max_tokens=400)
    share = 1 / (1 + math.exp(-2))
    assert drawn.count(4) / 400 == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 400))


def test_generate_follows_from_its_seed_alone_and_goes_on_past_the_block():
    model = tiny_gpt()
    one = draw(model, end=VOCAB - 1, max_tokens=3 * BLOCK, seed=7, prompt=range(BLOCK + 3))
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    assert draw(model, end=VOCAB - 1, max_tokens=3 * BLOCK, seed=7, prompt=range(BLOCK + 3)) == one
    assert torch.equal(torch.random.get_rng_state(), state)
    assert draw(model, end=VOCAB - 1, max_tokens=3 * BLOCK, seed=8, prompt=range(BLOCK + 3)) != one


def test_generate_draws_for_each_seed_what_it_draws_for_that_one_alone():
    logits = torch.zeros(VOCAB)
    logits[20] = math.log(2)  # the end: the draws end at different lengths
    model = gpt_with_logits(logits)
    together = model.generate([0], end=20, max_tokens=40, temperature=1.0, seeds=range(12))
    assert len({len(drawn) for drawn in together}) > 3
    assert together == [draw(model, end=20, seed=seed, max_tokens=40, prompt=[0]) for seed in range(12)]
    assert model.generate([0], end=20, max_tokens=40, temperature=1.0, seeds=[]) == []


@pytest.mark.parametrize("training", [True, False])
def test_generate_draws_without_dropout_and_restores_the_mode(training):
    model = tiny_gpt(dropout=0.5).train(training)
    drawn = draw(model, end=VOCAB - 1)
    assert model.training is training
    assert drawn == draw(tiny_gpt(dropout=0.0), end=VOCAB - 1)
