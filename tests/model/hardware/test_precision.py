import platform
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from model.errors import ConfigError, Diverged
from model.hardware.precision import LossScaler, automatic, choose

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device_type", "bf16_in_hardware", "expected"),
    [("cuda", True, "bf16"), ("cuda", False, "fp16"), ("cpu", True, "bf16"), ("cpu", False, "fp32")],
)
def test_auto_takes_the_fastest_format_of_the_hardware(device_type, bf16_in_hardware, expected):
    name, reason = automatic(device_type, bf16_in_hardware=bf16_in_hardware)
    assert name == expected
    assert reason.endswith(".")
    assert "\n" not in reason


CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(not CPUINFO.exists() or platform.machine() != "x86_64", reason="needs Linux on x86")
def test_auto_on_this_cpu_agrees_with_what_linux_says_of_it():
    flags = set(next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")).split())
    expected = "bf16" if flags & {"avx512_bf16", "amx_bf16"} else "fp32"
    assert choose("auto", CPU).name == expected


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_named_precision_is_taken_as_it_is(name):
    assert choose(name, CPU).name == name


def test_fp16_on_a_cpu_is_refused_with_what_is_allowed():
    with pytest.raises(
        ConfigError, match=r"^training\.precision: given fp16 on a CPU, allowed there: .*bf16$"
    ):
        choose("fp16", CPU)


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_products_in_the_format_and_keeps_gradients_in_fp32(name, dtype):
    layer = nn.Linear(4, 4)
    with choose(name, CPU).autocast():
        output = layer(torch.ones(2, 4))
    assert output.dtype == dtype
    output.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_bf16_loss_is_that_of_fp32_to_its_eight_bits():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 50))
    tokens, targets = torch.randint(50, (256,)), torch.randint(50, (256,))
    losses = []
    for name in ("fp32", "bf16"):
        with choose(name, CPU).autocast():
            losses.append(F.cross_entropy(net(tokens).float(), targets).item())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=2**-8)  # bf16 has 8 bits of significand


def test_autocast_sees_weights_moved_between_two_passes():
    weight = nn.Parameter(torch.ones(1, 1))
    outputs = []
    for _ in range(2):
        with choose("bf16", CPU).autocast():
            outputs.append(F.linear(torch.ones(1, 1), weight).item())
        with torch.no_grad():
            weight.add_(1)
    assert outputs == [1, 2]


@settings(max_examples=60)
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_scale_follows_torchs_grad_scaler(overflows, growth_interval):
    weight = nn.Parameter(torch.ones(3))
    sgd = torch.optim.SGD([weight], lr=0.0)
    reference = torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_interval=growth_interval)
    ours = LossScaler(enabled=True, initial_scale=2.0**100, growth_interval=growth_interval)
    reference.scale(torch.ones(()))  # sets up its scale
    for overflow in overflows:
        gradient = torch.full((3,), float("inf") if overflow else 1.0)
        weight.grad = gradient.clone()
        reference.unscale_(sgd)
        reference.step(sgd)
        reference.update()
        weight.grad = gradient.clone()
        finite = ours.unscale([weight])
        assert finite is not overflow
        ours.update(overflowed=not finite)
        assert ours.scale == reference.get_scale()


def test_defaults_are_those_of_torchs_grad_scaler():
    reference, ours = torch.amp.GradScaler("cpu"), LossScaler(enabled=True)
    assert ours.scale == reference.get_scale() == 2**16
    for _ in range(reference.get_growth_interval() - 1):
        ours.update(overflowed=False)
    assert ours.scale == 2**16
    ours.update(overflowed=False)
    assert ours.scale == 2**16 * reference.get_growth_factor()
    ours.update(overflowed=True)
    assert ours.scale == 2**17 * reference.get_backoff_factor()


def test_the_scale_stops_growing_before_it_overflows_fp32():
    scaler = LossScaler(enabled=True, initial_scale=2.0**126, growth_interval=1)
    for _ in range(3):
        scaler.update(overflowed=False)
    assert scaler.scale == 2.0**127


def test_unscaled_gradients_are_those_of_the_plain_loss_to_the_bit():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    inputs = torch.randn(4, 5)
    net(inputs).mean().backward()
    plain = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    scaler = LossScaler(enabled=True)
    scaler.scale_loss(net(inputs).mean()).backward()
    assert not torch.equal(net[0].weight.grad, plain[0])
    assert scaler.unscale(list(net.parameters()))
    # the scale is a power of two, so that it changes exponents alone
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), plain, strict=True))


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_one_bad_element_in_any_gradient_is_seen(bad):
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(3)]
    parameters[0].grad = torch.ones(3)
    parameters[2].grad = torch.tensor([1.0, bad, 1.0])  # parameters[1] has none
    assert not LossScaler(enabled=True).unscale(parameters)


def test_a_real_fp16_overflow_is_seen_and_gone_at_half_the_scale():
    weight, scaler = nn.Parameter(torch.ones(3)), LossScaler(enabled=True)
    # the gradient of weight.half() is the scale itself: 65536 is past the largest fp16, 65504
    for expected in (False, True):
        weight.grad = None
        scaler.scale_loss(weight.half().sum().float()).backward()
        finite = scaler.unscale([weight])
        assert finite is expected
        scaler.update(overflowed=not finite)
    assert torch.equal(weight.grad, torch.ones(3))
    assert scaler.scale == 2**15


def test_overflow_at_scale_one_is_divergence():
    scaler = LossScaler(enabled=True, initial_scale=2.0)
    scaler.update(overflowed=True)
    with pytest.raises(Diverged, match="loss scale 1"):
        scaler.update(overflowed=True)


def test_a_disabled_scaler_changes_nothing():
    weight, scaler = nn.Parameter(torch.ones(2)), LossScaler(enabled=False)
    weight.grad = torch.tensor([3.0, float("inf")])
    loss = torch.ones(())
    assert scaler.scale_loss(loss) is loss
    assert scaler.unscale([weight])
    assert weight.grad.tolist() == [3.0, float("inf")]
    scaler.update(overflowed=True)
    assert scaler.scale == 1


def test_a_restored_scaler_goes_on_where_it_was():
    one, other = (LossScaler(enabled=True, growth_interval=5) for _ in range(2))
    history = [False, False, True, False, False, False]
    for overflowed in history:
        one.update(overflowed=overflowed)
    other.load_state_dict(one.state_dict())
    for scaler in (one, other):
        scaler.update(overflowed=False)
        scaler.update(overflowed=False)
    assert one.scale == other.scale == 2**16
    assert one.state_dict() == other.state_dict()
