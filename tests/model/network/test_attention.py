import itertools
import math

import pytest
import torch

from model.config.architecture import ModelConfig
from model.data.batches import evaluation_windows
from model.data.tokenized_corpus import encode_split
from model.data.tokenizer import Tokenizer
from model.network.attention import (
    Attention,
    _fused_attention,
    _plain_attention,
    document_mask,
    rotary_table,
    rotate,
    sinusoidal_table,
)
from model.network.gpt import GPT
from tests.tiny_gpt import BLOCK, EOS, stream, tiny_config, tiny_gpt

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rope", "none"])
def test_the_order_of_earlier_tokens_matters_unless_there_are_no_positions(positions, norm_position):
    # in deeper models the causal mask gives some order away
    model = tiny_gpt(n_layer=1, positions=positions, norm_position=norm_position)
    tokens = torch.arange(BLOCK)[None]
    swapped = torch.tensor([[3, 1, 2, 0, *range(4, BLOCK)]])
    moved = (model(tokens)[0, -1] - model(swapped)[0, -1]).abs().max().item()
    if positions == "none":
        assert moved < 1e-12  # fp64 rounding of one softmax whose terms are added in another order
    else:
        assert moved > 1e-3


def test_with_no_positions_a_deeper_model_still_learns_order_from_the_causal_mask():
    model = tiny_gpt(n_layer=2, positions="none")
    tokens = torch.arange(BLOCK)[None]
    swapped = torch.tensor([[3, 1, 2, 0, *range(4, BLOCK)]])
    assert (model(tokens)[0, -1] - model(swapped)[0, -1]).abs().max() > 1e-3


def test_rotary_positions_are_multiplications_by_complex_numbers_of_the_position():
    width, base = 6, 500.0
    torch.manual_seed(0)
    x_BHTK = torch.randn(2, 3, BLOCK, width)
    turned = rotate(x_BHTK, rotary_table(BLOCK, width=width, base=base))
    for head, position, i in itertools.product(range(3), range(BLOCK), range(width // 2)):
        pair = complex(x_BHTK[1, head, position, i], x_BHTK[1, head, position, i + width // 2])
        angle = position * base ** (-2 * i / width)
        expected = pair * complex(math.cos(angle), math.sin(angle))
        given = complex(turned[1, head, position, i], turned[1, head, position, i + width // 2])
        assert abs(given - expected) < 1e-6  # fp32


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", [{"qk_norm": True}, {"output_gate": True}, {"value_residual": True}])
def test_options_of_attention_are_their_formulas_head_by_head(options, bias):
    model = tiny_gpt(positions="none", bias=bias, **options)
    first, second = model.blocks
    x_TD, mask = torch.randn(BLOCK, 16, dtype=torch.float64), torch.ones(BLOCK, BLOCK).tril() == 0

    def head(attention, name, h):
        fused, rows = attention.query_key_value, slice(8 * h, 8 * h + 8)
        part = slice(*{"query": (0, 16), "key": (16, 32), "value": (32, 48)}[name])
        out = x_TD @ fused.weight[part][rows].T + (fused.bias[part][rows] if bias else 0)
        if "qk_norm" in options and name != "value":
            gain = {"query": attention.query_norm, "key": attention.key_norm}[name].weight
            out = out / out.square().mean(-1, keepdim=True).sqrt() * gain
        return out

    def expected(attention, *, follows):
        heads = []
        for h in range(2):
            values = head(attention, "value", h)
            if "value_residual" in options and follows:
                shares = attention.value_mixture.shares
                values = shares[0] * head(first.attention, "value", h) + shares[1] * values
            scores = head(attention, "query", h) @ head(attention, "key", h).T / math.sqrt(8)
            mixed = scores.masked_fill(mask, -math.inf).softmax(-1) @ values
            if "output_gate" in options:
                gate = attention.output_gate
                opened = x_TD @ gate.weight[h] + (gate.bias[h] if bias else 0)
                mixed = mixed / (1 + torch.exp(-opened))[:, None]
            heads.append(mixed)
        projection = attention.projection
        return torch.cat(heads, -1) @ projection.weight.T + (projection.bias if bias else 0)

    values = [] if "value_residual" in options else None
    for block, follows in ((first, False), (second, True)):
        got = block.attention(x_TD[None], None, None, values)[0]
        torch.testing.assert_close(got, expected(block.attention, follows=follows), rtol=0, atol=1e-10)


def test_the_first_blocks_values_reach_the_last_block_of_a_model_and_mix_by_halves_at_first():
    plain, mixed = (GPT(tiny_config(value_residual=on), seed=0) for on in (False, True))
    assert [block.attention.value_mixture is None for block in mixed.blocks] == [True, False]
    shares = mixed.blocks[1].attention.value_mixture.shares
    assert shares.tolist() == [0.5, 0.5]
    tokens = stream(2, BLOCK)
    assert not torch.allclose(mixed(tokens), plain(tokens))
    with torch.no_grad():
        shares.copy_(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(mixed(tokens), plain(tokens), rtol=0, atol=1e-5)


def test_normalised_queries_and_keys_do_not_grow_with_their_matrix():
    model = tiny_gpt(qk_norm=True, positions="rope", bias=False)
    attention, x_BTD = model.blocks[0].attention, torch.randn(1, BLOCK, 16, dtype=torch.float64)
    table = rotary_table(BLOCK, width=8, base=10_000.0).double()
    before = attention.heads(x_BTD, table)
    with torch.no_grad():
        attention.query_key_value.weight[:32].mul_(7.0)
    for one, other in zip(before, attention.heads(x_BTD, table), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_rotated_attention_sees_distances_and_not_positions():
    shape = ModelConfig(n_head=3, d_model=12, block_size=BLOCK, positions="rope")
    torch.manual_seed(0)
    attention = Attention(shape).double()
    x_BTD = torch.randn(1, BLOCK, 12, dtype=torch.float64)
    table = rotary_table(4 * BLOCK, width=4, base=shape.rope_base).double()

    def scores(offset):
        query, key, _ = attention.heads(x_BTD, table[:, offset : offset + BLOCK])
        return query @ key.transpose(-1, -2)

    # the table's angles were rounded to fp32 once
    torch.testing.assert_close(scores(0), scores(3 * BLOCK), rtol=0, atol=1e-6)
    # and the distances are there: one token after another gives a score of its own at every distance
    query, key, _ = attention.heads(x_BTD[:, :1].expand(1, BLOCK, 12), table[:, :BLOCK])
    alike = (query @ key.transpose(-1, -2))[0, 0, -1]
    assert len(set(alike.round(decimals=6).tolist())) == BLOCK


def test_rotation_is_computed_in_fp32_and_returned_in_the_precision_of_the_product():
    x_BHTK = torch.randn(1, 1, 2048, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    table = rotary_table(2048, width=8, base=10_000.0)
    assert table.dtype == torch.float32
    turned = rotate(x_BHTK, table)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x_BHTK.float(), table).bfloat16())


def test_the_base_sets_the_slowest_rotation():
    table = rotary_table(2, width=8, base=81.0)
    angles = torch.atan2(table[1, 1, 4:], table[0, 1, 4:]).tolist()
    assert angles == pytest.approx([1, 1 / 3, 1 / 9, 1 / 27])
    one, other = tiny_gpt(positions="rope"), tiny_gpt(positions="rope", rope_base=100.0)
    tokens = stream(1, BLOCK)
    assert (one(tokens) - other(tokens)).abs().max() > 1e-3


def test_sinusoidal_positions_are_those_of_the_paper_and_are_added_to_the_embeddings():
    table = sinusoidal_table(BLOCK, d_model=16)
    for position, entry in itertools.product(range(BLOCK), range(16)):
        angle = position / 10_000 ** (2 * (entry // 2) / 16)
        expected = math.cos(angle) if entry % 2 else math.sin(angle)
        assert table[position, entry].item() == pytest.approx(expected, abs=1e-6)  # fp32
    model, tokens = tiny_gpt(positions="sinusoidal"), stream(2, BLOCK)
    learned = tiny_gpt(positions="learned")
    learned.load_state_dict(model.state_dict() | {"position_embedding.weight": table})
    assert torch.equal(model(tokens), learned(tokens))


@pytest.mark.parametrize("positions", ["sinusoidal", "rope", "none"])
def test_only_learned_positions_are_saved(positions):
    saved = GPT(tiny_config(positions=positions), seed=0).state_dict()
    assert not [key for key in saved if "position" in key]


def test_the_document_mask_is_causal_and_ends_at_the_last_eos():
    tokens = torch.tensor([[5, EOS, 6, 7, EOS, EOS, 8]])
    expected = [
        [1, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1, 1],
    ]
    mask = document_mask(tokens, eos_id=EOS)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[[[bool(entry) for entry in row] for row in expected]]]


@pytest.mark.parametrize("attention", ["stream", "document"])
@pytest.mark.parametrize(
    ("positions", "norm_position"), [("learned", "pre"), ("rope", "pre"), ("rope", "post")]
)
def test_earlier_titles_change_the_logits_of_a_title_only_in_a_stream(attention, positions, norm_position):
    model = tiny_gpt(attention=attention, positions=positions, norm_position=norm_position)
    tokens = stream(2, BLOCK)
    tokens[:, 5] = EOS
    exchanged = tokens.clone()
    exchanged[:, :5] = stream(2, 5, seed=3)
    before, after = model(tokens), model(exchanged)
    assert not torch.equal(before[:, :5], after[:, :5])
    if attention == "document":
        # from the <eos> on, which predicts the first token
        assert torch.equal(before[:, 5:], after[:, 5:])
    else:
        assert ((before[:, 5:] - after[:, 5:]).abs().amax(-1) > 1e-3).all()


def test_rotary_logits_of_a_title_do_not_depend_on_its_place_in_the_window():
    model = tiny_gpt(attention="document", positions="rope")
    title = torch.tensor([[EOS, 3, 1, 4]])
    late = torch.cat([stream(1, BLOCK - 4), title], dim=1)
    # angles rounded to fp32
    torch.testing.assert_close(model(late)[:, -4:], model(title), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["stream", "document"])
def test_inside_one_title_both_kinds_of_attention_are_the_same(attention):
    tokens = stream(2, BLOCK)
    tokens[:, 0] = EOS
    one, other = tiny_gpt(attention=attention), tiny_gpt(attention="stream")
    # another kernel: fp64 rounding
    torch.testing.assert_close(one(tokens), other(tokens), rtol=0, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.bfloat16, 0.03)])
def test_plain_and_fused_attention_are_the_same(masked, dtype, atol):
    generator = torch.Generator().manual_seed(0)
    q, k, v, weights = torch.randn(4, 3, 2, 9, 4, generator=generator, dtype=torch.float64)
    mask = document_mask(torch.randint(4, (3, 9), generator=generator), eos_id=0) if masked else None
    found = []
    for attend, precision in ((_plain_attention, dtype), (_fused_attention, torch.float64)):
        inputs = [tensor.to(precision, copy=True).requires_grad_() for tensor in (q, k, v)]
        output = attend(*inputs, mask, 0.0)
        gradients = torch.autograd.grad((output * weights).sum(), inputs)
        found.append([tensor.double() for tensor in (output, *gradients)])
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(plain, fused, rtol=0.03 if dtype is torch.bfloat16 else 1e-12, atol=atol)


def test_plain_attention_drops_weights_after_the_softmax():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 8, 8)
    values = torch.eye(8).view(1, 1, 8, 8)  # so that the mixture of values is the weights themselves
    weights = _plain_attention(q, k, values, None, 0.0)
    dropped = _plain_attention(q, k, values, None, 0.5)
    kept = dropped != 0
    assert 0 < kept.sum() < (weights != 0).sum()
    torch.testing.assert_close(dropped[kept], 2 * weights[kept])


def test_the_first_token_of_every_title_is_predicted_from_an_eos_that_sees_only_itself():
    titles = [f"show me the small thing that counts to {i}" for i in range(15)]
    tokenizer = Tokenizer.train(titles, vocab_size=EOS)
    split, eos = encode_split(tokenizer, titles), tokenizer.eos_id
    (inputs, targets), *_ = evaluation_windows(split.tokens, eos_id=eos, block_size=BLOCK, batch_size=64)
    opening = inputs == eos
    assert targets[opening][:15].tolist() == split.tokens[split.starts[:-1]].tolist()
    model = GPT(tiny_config(positions="rope", attention="document"), seed=0, eos_id=eos).double()
    with torch.no_grad():
        logits = model(torch.from_numpy(inputs))[torch.from_numpy(opening)]
    # rotated each by its own position, but attending to themselves alone: fp64 rounding
    torch.testing.assert_close(logits, logits[:1].expand_as(logits), rtol=0, atol=1e-12)
