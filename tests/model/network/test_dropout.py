"""Dropout's masks, against the binomial distribution and torch's own seeding."""

import pytest
import torch
from scipy import stats

from model.network.dropout import dropout


@pytest.mark.parametrize("p", [0.001, 0.05, 0.1, 0.5, 0.9, 0.984, 0.99, 0.9999, 1 - 2**-17, 1 - 1e-6])
def test_the_share_that_is_dropped_is_the_probability(p):
    torch.manual_seed(0)
    elements = 2_000_000
    dropped = int((dropout(torch.ones(elements), p, training=True) == 0).sum())
    assert stats.binomtest(dropped, elements, p).pvalue > 1e-4


def test_the_others_are_enlarged_so_that_the_mean_stays():
    torch.manual_seed(0)
    x = torch.arange(1.0, 100_001.0).view(10, 100, 100)
    y = dropout(x, 0.2, training=True)
    torch.testing.assert_close(y[y != 0], x[y != 0] / 0.8)


@pytest.mark.parametrize("p", [0.01, 0.05, 0.1, 0.15, 0.3, 0.9])
def test_in_bf16_an_element_is_off_by_its_own_rounding_alone(p):
    torch.manual_seed(0)
    x = torch.linspace(1, 2, 100_000).bfloat16()
    y = dropout(x, p, training=True)
    assert torch.equal(y[y != 0], (x[y != 0].float() * (1 / (1 - p))).bfloat16())


@pytest.mark.parametrize("p", [1 - 2**-30, 1 - 2**-53])
def test_next_to_1_nothing_is_kept(p):
    torch.manual_seed(0)
    assert not dropout(torch.ones(100_000), p, training=True).any()


def test_neighbours_are_dropped_independently():
    # 64 bits drawn at a time are cut into four, so that a dependence would show within four neighbours
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(250_000, 4), 0.5, training=True) == 0).int()
    patterns = (dropped * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
    assert stats.chisquare(patterns.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,), (5, 7), (0, 3)])
def test_every_shape_keeps_its_own(shape):
    assert dropout(torch.ones(shape), 0.5, training=True).shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_goes_where_the_value_went(dtype):
    torch.manual_seed(0)
    x = torch.ones(1000, dtype=dtype, requires_grad=True)
    y = dropout(x, 0.3, training=True)
    y.sum().backward()
    assert y.dtype == dtype
    assert torch.equal(x.grad, y.detach())


def test_masks_follow_from_torchs_seed():
    x = torch.ones(1000)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(dropout(x, 0.3, training=True))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_nothing_is_dropped_or_drawn_where_there_is_nothing_to_drop():
    x = torch.ones(10)
    before = torch.get_rng_state()
    assert dropout(x, 0.3, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert torch.equal(torch.get_rng_state(), before)
