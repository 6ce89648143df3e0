import math

import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from torch import nn

from model.config.optimization import OptimizerConfig
from model.errors import Diverged
from model.hardware.precision import LossScaler
from model.optimization.optimizer import build
from model.optimization.sharpness import Sharpness, take_step

CPU = torch.device("cpu")
METHODS = ["sam", "asam"]


def tiny_net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 7)).to(
        dtype
    )


def batch(step, size=8):
    generator = torch.Generator().manual_seed(step)
    return torch.randint(7, (size,), generator=generator), torch.randint(7, (size,), generator=generator)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Run:
    """A tiny net with everything a step needs; gradients can be spoilt in either pass."""

    def __init__(
        self, *, method="none", rho=0.05, clip_norm=None, fp16=False, micro=None, dtype=torch.float64, **kw
    ):
        self.model = tiny_net(dtype)
        self.optimizers = build(self.model, OptimizerConfig(**{"lr": 0.1, "name": "sgd"} | kw), device=CPU)
        parameters = list(self.model.parameters())
        self.sharpness = None if method == "none" else Sharpness(parameters, method=method, rho=rho)
        self.scaler = LossScaler(enabled=fp16)
        self.clip_norm, self.micro = clip_norm, micro
        self.spoil: dict[bool, float] = {}
        self.spoilt_loss = None
        self.seen: list[list[torch.Tensor]] = []

    def step(self, number=0):
        tokens, targets = batch(number)
        self.seen = []

        def compute_gradient(second_pass):
            self.seen.append(weights(self.model))
            total = torch.zeros((), dtype=torch.float64)
            for x, y in zip(tokens.split(self.micro or 8), targets.split(self.micro or 8), strict=True):
                loss = F.cross_entropy(self.model(x), y, reduction="sum") / len(tokens)
                self.scaler.scale_loss(loss).backward()
                total += loss.detach()
            if second_pass in self.spoil:
                self.model[1].weight.grad[0, 0] = self.spoil[second_pass]
            return total if self.spoilt_loss is None else torch.tensor(self.spoilt_loss)

        return take_step(
            compute_gradient,
            self.optimizers,
            sharpness=self.sharpness,
            scaler=self.scaler,
            clip_norm=self.clip_norm,
        )


def plain_gradient(model, number=0):
    tokens, targets = batch(number)
    return torch.autograd.grad(F.cross_entropy(model(tokens), targets), list(model.parameters()))


def global_norm(tensors):
    return torch.cat([t.flatten() for t in tensors]).norm()


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize(("method", "rho"), [("sam", 0.05), ("sam", 0.5), ("asam", 0.5), ("asam", 2.0)])
def test_steps_are_those_of_pytorch_optimizers_sam(base, method, rho):
    ours = Run(method=method, rho=rho, name=base, lr=0.05, momentum=0.9, weight_decay=0.0)
    net = tiny_net()
    arguments = {"lr": 0.05, "weight_decay": 0.0}
    arguments |= {"momentum": 0.9} if base == "sgd" else {"betas": (0.9, 0.95), "eps": 1e-8}
    base_class = torch.optim.SGD if base == "sgd" else torch.optim.AdamW
    theirs = pytorch_optimizer.SAM(
        net.parameters(), base_class, rho=rho, adaptive=method == "asam", **arguments
    )
    for number in range(6):
        tokens, targets = batch(number)

        def loss_of_batch(tokens=tokens, targets=targets):
            theirs.zero_grad()
            loss = F.cross_entropy(net(tokens), targets)
            loss.backward()
            return loss

        loss = loss_of_batch()
        theirs.step(loss_of_batch)
        assert ours.step(number).loss == pytest.approx(loss.item(), rel=1e-9)
    # the same formula in another order of sums and products, in double precision: some 1e-16 a step, which
    # AdamW enlarges where the second moment is near zero
    torch.testing.assert_close(weights(ours.model), weights(net), rtol=1e-9, atol=1e-11)
    assert not torch.allclose(ours.model[1].weight, tiny_net()[1].weight, atol=1e-3)


def quadratic(method, rho):
    """One step of f(w) = ½ Σ a w² from w = (3, -1), a = (1, 4), in two tensors."""
    curvature = torch.tensor([1.0, 4.0], dtype=torch.float64)
    model = nn.ParameterList([torch.tensor([3.0]).double(), torch.tensor([-1.0]).double()])
    optimizers = build(model, OptimizerConfig(name="sgd", lr=0.1, momentum=0.0), device=CPU)

    def compute_gradient(second_pass):
        loss = (curvature * torch.cat(list(model)) ** 2).sum() / 2
        loss.backward()
        return loss.detach()

    sharpness = Sharpness(list(model), method=method, rho=rho)
    scaler = LossScaler(enabled=False)
    result = take_step(compute_gradient, optimizers, sharpness=sharpness, scaler=scaler, clip_norm=None)
    return result, torch.cat(list(model)).tolist()


def test_sam_on_a_quadratic_by_hand():
    # g = (3, -4), ‖g‖ = 5, eps = 0.5 / 5 g = (0.3, -0.4), gradient at w + eps = (3.3, -5.6)
    result, moved = quadratic("sam", 0.5)
    assert result.loss == pytest.approx(6.5)
    assert result.grad_norm == pytest.approx(math.hypot(3.3, 5.6))
    assert moved == pytest.approx([3 - 0.33, -1 + 0.56])


def test_adaptive_sam_on_a_quadratic_by_hand():
    # |w| g = (9, -4), eps = 0.5 / sqrt(97) (9 * 3, 1 * -4)
    scale = 0.5 / math.sqrt(97)
    expected = [3 - 0.1 * (3 + 27 * scale), -1 + 0.1 * 4 * (1 + 4 * scale)]
    assert quadratic("asam", 0.5)[1] == pytest.approx(expected)


@pytest.mark.parametrize("method", METHODS)
def test_the_ascent_has_norm_rho_over_all_parameters_together(method):
    model, rho = tiny_net(), 0.3
    before = weights(model)
    for parameter, gradient in zip(model.parameters(), plain_gradient(model), strict=True):
        parameter.grad = gradient
    Sharpness(list(model.parameters()), method=method, rho=rho).ascend()
    moves = [new - old for new, old in zip(weights(model), before, strict=True)]
    if method == "asam":  # its ball is ‖eps / |w|‖; weights of zero do not move
        assert all((move[old == 0] == 0).all() for move, old in zip(moves, before, strict=True))
        moves = [move[old != 0] / old[old != 0] for move, old in zip(moves, before, strict=True)]
    assert global_norm(moves).item() == pytest.approx(rho, rel=1e-9)


def test_the_ascent_spans_the_groups_of_all_optimizers():
    run = Run(method="sam", rho=0.3, name="muon")
    before = weights(run.model)
    assert len(run.optimizers.groups) > 3
    run.step()
    moves = [new - old for new, old in zip(run.seen[1], before, strict=True)]
    assert global_norm(moves).item() == pytest.approx(0.3, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_parameters_without_a_gradient_stay_and_zero_gradients_move_nothing(method):
    with_zero, without = (nn.Parameter(torch.ones(3)) for _ in range(2))
    with_zero.grad = torch.zeros(3)
    sharpness = Sharpness([with_zero, without], method=method, rho=0.5)
    sharpness.ascend()
    assert torch.equal(with_zero, torch.ones(3))
    assert torch.equal(without, torch.ones(3))
    sharpness.restore()
    assert without.grad is None


@pytest.mark.parametrize("method", METHODS)
def test_restore_is_exact_where_subtraction_would_not_be(method):
    model = tiny_net(torch.float32)
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    sharpness = Sharpness(list(model.parameters()), method=method, rho=1e6)
    sharpness.ascend()
    assert (model[1].weight - before[1]).abs().max() > 100
    sharpness.restore()
    assert equal(weights(model), before)


def test_an_error_in_the_second_pass_leaves_the_weights_restored():
    run = Run(method="sam")
    before = weights(run.model)

    def compute_gradient(second_pass):
        if second_pass:
            raise MemoryError
        loss = run.model(batch(0)[0]).square().mean()
        loss.backward()
        return loss.detach()

    with pytest.raises(MemoryError):
        take_step(
            compute_gradient, run.optimizers, sharpness=run.sharpness, scaler=run.scaler, clip_norm=None
        )
    assert equal(weights(run.model), before)


@pytest.mark.parametrize("spoilt_pass", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_fp16_overflow_in_either_pass_skips_the_step_and_halves_the_scale(method, spoilt_pass, bad):
    run = Run(method=method, fp16=True, name="adamw", dtype=torch.float32)
    run.step(0)
    before, state = weights(run.model), {k: t.clone() for k, t in run.optimizers.flat_state().items()}
    run.spoil = {spoilt_pass: bad}
    result = run.step(1)
    assert result.skipped
    assert math.isfinite(result.loss)
    assert len(run.seen) == (2 if spoilt_pass else 1)
    assert equal(weights(run.model), before)
    assert equal(run.optimizers.flat_state().values(), state.values())
    assert run.scaler.scale == 2**15
    run.spoil = {}
    assert not run.step(2).skipped
    assert not equal(weights(run.model), before)


@pytest.mark.parametrize("method", ["none", *METHODS])
def test_loss_scaling_changes_no_bit_of_a_step(method):
    # the scale is a power of two: scaling and unscaling move exponents alone
    plain, scaled = (
        Run(method=method, clip_norm=0.1, dtype=torch.float32, fp16=fp16) for fp16 in (False, True)
    )
    for number in range(3):
        assert plain.step(number) == scaled.step(number)
    assert equal(weights(plain.model), weights(scaled.model))


@pytest.mark.parametrize("method", ["none", *METHODS])
@pytest.mark.parametrize("micro", [1, 3, 4])
def test_micro_batches_give_the_step_of_the_whole_batch(method, micro):
    whole, parts = Run(method=method, clip_norm=0.1), Run(method=method, clip_norm=0.1, micro=micro)
    for number in range(3):
        one, other = whole.step(number), parts.step(number)
        assert one.loss == pytest.approx(other.loss, rel=1e-12)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-10)
    # sums of eight in another order, in double precision
    torch.testing.assert_close(weights(whole.model), weights(parts.model), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", ["none", *METHODS])
@pytest.mark.parametrize("share", [0.5, 2.0])
def test_clipping_applies_to_the_second_gradient_at_the_restored_weights(method, share):
    model = tiny_net()
    start = weights(model)
    gradient = plain_gradient(model)
    if method != "none":
        factor = [w if method == "asam" else torch.ones_like(w) for w in start]
        norm = global_norm([f * g for f, g in zip(factor, gradient, strict=True)])
        with torch.no_grad():
            for p, f, g in zip(model.parameters(), factor, gradient, strict=True):
                p.add_(0.5 * f * f * g / (norm + 1e-12))
        gradient = plain_gradient(model)
    norm = global_norm(gradient).item()
    clip_norm = share * norm
    run = Run(method=method, rho=0.5, clip_norm=clip_norm, momentum=0.0, weight_decay=0.0, lr=0.1)
    result = run.step()
    assert result.grad_norm == pytest.approx(norm, rel=1e-9)
    coefficient = min(1.0, clip_norm / (norm + 1e-6))
    expected = [w - 0.1 * coefficient * g for w, g in zip(start, gradient, strict=True)]
    torch.testing.assert_close(weights(run.model), expected, rtol=1e-9, atol=1e-12)


def test_a_plain_step_is_torchs_clip_and_step():
    run, net = Run(clip_norm=0.05, name="adamw", lr=0.01, weight_decay=0.0), tiny_net()
    adamw = torch.optim.AdamW(net.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for number in range(3):
        tokens, targets = batch(number)
        adamw.zero_grad()
        (F.cross_entropy(net(tokens), targets, reduction="sum") / 8).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.05)
        adamw.step()
        run.step(number)
    # the norm is taken over tensors in the order of the groups and not of the module: one rounding
    torch.testing.assert_close(weights(run.model), weights(net), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", ["none", *METHODS])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [False, True, "loss"])
def test_a_non_finite_number_raises_diverged_before_anything_changes(method, bad, where):
    if method == "none" and where is True:
        where = False  # there is no second pass to spoil
    run = Run(method=method, name="adamw", clip_norm=1.0)
    run.step(0)
    before, state = weights(run.model), {k: t.clone() for k, t in run.optimizers.flat_state().items()}
    if where == "loss":
        run.spoilt_loss = bad
    else:
        run.spoil = {where: bad}
    with pytest.raises(Diverged, match=r"nan|inf"):
        run.step(1)
    assert equal(weights(run.model), before)
    assert equal(run.optimizers.flat_state().values(), state.values())


def test_fp16_that_overflows_at_every_scale_ends_in_divergence():
    run = Run(fp16=True)
    before = weights(run.model)
    run.spoil = {False: math.nan}
    for _ in range(16):
        assert run.step().skipped
    with pytest.raises(Diverged):
        run.step()
    assert equal(weights(run.model), before)
