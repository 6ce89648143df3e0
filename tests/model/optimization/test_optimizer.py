import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.config.optimization import OptimizerConfig
from model.config.train_config import TrainConfig
from model.errors import CheckpointError
from model.hardware.precision import has_bf16
from model.network.gpt import GPT
from model.optimization.optimizer import build, describe_groups

CPU = torch.device("cpu")
NAMES = ["sgd", "adam", "adamw", "muon"]


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.before(x))))


class TinyGPT(nn.Module):
    """Parameters of every kind under names that say nothing, with a tied head."""

    def __init__(self, seed=0, width=4):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Embedding(9, width), nn.Embedding(5, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.last = nn.LayerNorm(width)
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, tokens):
        x = self.first(tokens) + self.second.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.last(x) * self.gain, self.first.weight)


def train(model, optimizers, steps, first=0):
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(9, (3, 6), generator=generator)
        optimizers.set_learning_rate(1 / (1 + step))
        optimizers.zero_grad()
        logits = model(tokens[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizers.step()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def gpt(vocab=300, block=8, **shape):
    shape = {"n_layer": 2, "n_head": 2, "d_model": 16, "block_size": block} | shape
    config = {"tokenizer": {"vocab_size": vocab}, "model": shape, "evaluation": {"block_size": block}}
    return GPT(TrainConfig(**config), seed=0)


SCALED = {"layer_scale": 0.1, "value_residual": True, "output_gate": True, "qk_norm": True}


@pytest.mark.parametrize("which", ["matrices", "not_biases", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_scales_never_decay(name, which):
    config = OptimizerConfig(
        name=name, weight_decay=0.3, weight_decay_on=which, auxiliary_weight_decay=0.2 * (name == "muon")
    )
    groups = {g["role"]: g for g in build(gpt(**SCALED), config, device=CPU).groups}
    assert groups["scales"]["weight_decay"] == 0
    assert groups["matrices"]["weight_decay"] == 0.3


def test_muon_takes_the_two_dimensional_matrices_of_the_blocks_and_no_others():
    model = gpt(tied=False, activation="swiglu", **SCALED)
    groups = build(model, OptimizerConfig(name="muon"), device=CPU).groups
    taken = [p for g in groups if "momentum" in g for p in g["params"]]
    in_blocks = [p for p in model.blocks.parameters() if p.ndim == 2]
    assert sorted(map(id, taken)) == sorted(map(id, in_blocks))


def test_muons_adamw_part_decays_as_torchs_adamw():
    model, reference = gpt(**SCALED), gpt(**SCALED)
    config = OptimizerConfig(name="muon", auxiliary_lr=0.003, auxiliary_weight_decay=0.2)
    optimizers = build(model, config, device=CPU)
    scales = [p for n, p in reference.named_parameters() if n.endswith(("_scale.factors", ".shares"))]
    matrices = [p for p in reference.blocks.parameters() if p.ndim == 2]
    rest = [p for p in reference.parameters() if not any(p is q for q in (*scales, *matrices))]
    groups = [{"params": rest, "weight_decay": 0.2}, {"params": scales, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.003, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for t in range(2):
        torch.manual_seed(t)
        for parameter, other in zip(model.parameters(), reference.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
        optimizers.step()
        adamw.step()
    ours = dict(model.named_parameters())
    for name, parameter in reference.named_parameters():
        if parameter.ndim == 1 or "embedding" in name:
            assert torch.equal(ours[name], parameter), name


def test_muon_leaves_an_untied_head_to_adamw_and_the_others_decay_it():
    model = gpt(tied=False)
    config = OptimizerConfig(name="muon", lr=0.02, auxiliary_lr=0.003)
    heads = {g["role"]: g for g in build(model, config, device=CPU).groups}
    assert (heads["head"]["peak_lr"], heads["head"]["weight_decay"]) == (0.003, 0)
    assert "momentum" not in heads["head"]
    heads = {g["role"]: g for g in build(model, OptimizerConfig(weight_decay=0.3), device=CPU).groups}
    assert heads["head"]["weight_decay"] == 0.3


@pytest.mark.parametrize(
    ("shape", "spared"),
    [  # seed 004's rows 7 and 8, whose filter by names left only biases alone
        ({"n_layer": 6, "n_head": 6, "d_model": 384}, 25_728),
        ({"n_layer": 4, "n_head": 3, "d_model": 192}, 8_640),
    ],
)
def test_weight_decay_on_all_but_biases_spares_as_many_parameters_as_the_published_filter(shape, spared):
    with torch.device("meta"):
        model = gpt(vocab=4000, block=64, **shape)
    config = OptimizerConfig(weight_decay=0.01, weight_decay_on="not_biases")
    groups = build(model, config, device=torch.device("meta")).groups
    alone = [p for group in groups if not group["weight_decay"] for p in group["params"]]
    assert sum(p.numel() for p in alone) == spared
    assert all(p.ndim == 1 for p in alone)
    decaying = [p for group in groups if group["weight_decay"] == 0.01 for p in group["params"]]
    assert any(p is model.final_norm.weight for p in decaying)
    assert any(p is model.position_embedding.weight for p in decaying)
    assert len(alone) + len(decaying) == len(list(model.parameters()))


def test_weight_decay_on_all_reaches_every_parameter_and_by_muon_matrices_alone():
    model = TinyGPT()
    groups = build(model, OptimizerConfig(weight_decay=0.3, weight_decay_on="all"), device=CPU).groups
    assert {group["weight_decay"] for group in groups} == {0.3}
    config = OptimizerConfig(name="muon", weight_decay=0.3, weight_decay_on="all")
    groups = build(model, config, device=CPU).groups
    assert {g["role"] for g in groups if g["weight_decay"]} == {"matrices"}


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_exactly_one_group_and_only_matrices_decay(name):
    model = TinyGPT()
    optimizers = build(model, OptimizerConfig(name=name, weight_decay=0.3), device=CPU)
    grouped = [id(p) for group in optimizers.groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert sorted(map(id, optimizers.parameters)) == sorted(grouped)
    assert {group["role"]: group["weight_decay"] for group in optimizers.groups} == {
        "matrices": 0.3,
        "biases": 0,
        "norms": 0,
        "embeddings": 0,
        "other": 0,
    }


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_with_zero_gradients_only_matrices_shrink_and_by_lr_times_decay(name):
    model = TinyGPT()
    optimizers = build(model, OptimizerConfig(name=name, lr=0.1, weight_decay=0.5), device=CPU)
    matrices = [id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)]
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        if id(parameter) in matrices:
            torch.testing.assert_close(parameter.detach(), old * (1 - 0.1 * 0.5))
        else:
            assert torch.equal(parameter, old)


def test_adamw_is_algorithm_2_of_its_paper():
    # Loshchilov & Hutter 2019, arXiv 1711.05101, written out in double precision
    model, lr, decay, (beta1, beta2), eps = TinyGPT().double(), 0.01, 0.1, (0.9, 0.95), 1e-8
    config = OptimizerConfig(lr=lr, weight_decay=decay, betas=(beta1, beta2), eps=eps)
    optimizers = build(model, config, device=CPU)
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    expected = weights(model)
    first, second = ([torch.zeros_like(w) for w in expected] for _ in range(2))
    for t in range(1, 6):
        torch.manual_seed(t)
        gradients = [torch.randn_like(w) for w in expected]
        for i, (parameter, g) in enumerate(zip(model.parameters(), gradients, strict=True)):
            parameter.grad = g.clone()
            first[i] = beta1 * first[i] + (1 - beta1) * g
            second[i] = beta2 * second[i] + (1 - beta2) * g**2
            mean, square = first[i] / (1 - beta1**t), second[i] / (1 - beta2**t)
            shrink = decay if id(parameter) in matrices else 0
            expected[i] = expected[i] - lr * (mean / (square.sqrt() + eps) + shrink * expected[i])
        optimizers.step()
    # rounding of double precision over five steps
    torch.testing.assert_close(weights(model), expected, rtol=1e-12, atol=1e-14)


def test_adam_is_algorithm_1_of_its_paper_with_the_decay_in_the_gradient():
    # Kingma & Ba 2015, arXiv 1412.6980, on the gradient of loss + decay / 2 ‖w‖², in double precision
    model, lr, decay, (beta1, beta2), eps = TinyGPT().double(), 0.01, 0.1, (0.9, 0.999), 1e-8
    config = OptimizerConfig(name="adam", lr=lr, weight_decay=decay, betas=(beta1, beta2), eps=eps)
    optimizers = build(model, config, device=CPU)
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    expected = weights(model)
    first, second = ([torch.zeros_like(w) for w in expected] for _ in range(2))
    for t in range(1, 6):
        torch.manual_seed(t)
        for i, parameter in enumerate(model.parameters()):
            parameter.grad = torch.randn_like(parameter)
            g = parameter.grad + (decay * expected[i] if id(parameter) in matrices else 0)
            first[i] = beta1 * first[i] + (1 - beta1) * g
            second[i] = beta2 * second[i] + (1 - beta2) * g**2
            mean, square = first[i] / (1 - beta1**t), second[i] / (1 - beta2**t)
            expected[i] = expected[i] - lr * mean / (square.sqrt() + eps)
        optimizers.step()
    # rounding of double precision over five steps
    torch.testing.assert_close(weights(model), expected, rtol=1e-12, atol=1e-14)


def test_decay_in_the_gradient_loses_its_size_and_decoupled_decay_keeps_it():
    moved = {}
    for name in ("adam", "adamw"):
        model = nn.Sequential(nn.Linear(1, 1, bias=False))
        nn.init.constant_(model[0].weight, 3.0)
        optimizers = build(model, OptimizerConfig(name=name, lr=0.1, weight_decay=0.5), device=CPU)
        model[0].weight.grad = torch.zeros(1, 1)
        optimizers.step()
        moved[name] = 3.0 - model[0].weight.item()
    # Adam divides the gradient 0.5 · 3 by its own size: a whole lr. AdamW shrinks by lr · 0.5 · 3
    assert moved["adam"] == pytest.approx(0.1, rel=1e-5)
    assert moved["adamw"] == pytest.approx(0.1 * 0.5 * 3, rel=1e-5)


def test_sgd_is_heavy_ball_with_l2_on_matrices():
    model, lr, decay, momentum = TinyGPT().double(), 0.1, 0.2, 0.7
    config = OptimizerConfig(name="sgd", lr=lr, weight_decay=decay, momentum=momentum)
    optimizers = build(model, config, device=CPU)
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    expected = weights(model)
    velocity = [torch.zeros_like(w) for w in expected]
    for t in range(4):
        torch.manual_seed(t)
        for i, parameter in enumerate(model.parameters()):
            parameter.grad = torch.randn_like(parameter)
            g = parameter.grad + (decay * expected[i] if id(parameter) in matrices else 0)
            velocity[i] = momentum * velocity[i] + g
            expected[i] = expected[i] - lr * velocity[i]
        optimizers.step()
    torch.testing.assert_close(weights(model), expected, rtol=1e-12, atol=1e-14)


def test_muon_moves_matrices_as_torchs_muon_and_the_rest_as_torchs_adamw():
    model, reference = TinyGPT(), TinyGPT()
    config = OptimizerConfig(
        name="muon", lr=0.02, auxiliary_lr=0.003, momentum=0.9, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6,
        orthogonalization="newton_schulz",
    )  # fmt: skip
    optimizers = build(model, config, device=CPU)
    linear = [m.weight for m in reference.modules() if isinstance(m, nn.Linear)]
    rest = [p for p in reference.parameters() if not any(p is w for w in linear)]
    muon = torch.optim.Muon(linear, lr=0.02, momentum=0.9, weight_decay=0.1)
    adamw = torch.optim.AdamW(rest, lr=0.003, betas=(0.8, 0.9), eps=1e-6, weight_decay=0, fused=True)
    for t in range(3):
        torch.manual_seed(t)
        for parameter, other in zip(model.parameters(), reference.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
        optimizers.step()
        muon.step()
        adamw.step()
    if has_bf16(CPU):
        assert equal(weights(model), weights(reference))
    else:  # torch's emulates bf16, ours is in fp32
        torch.testing.assert_close(weights(model), weights(reference), rtol=0, atol=2e-3)


def test_muons_first_update_is_the_nearest_orthogonal_matrix_roughly():
    model = nn.Sequential(nn.Linear(6, 6, bias=False))
    config = OptimizerConfig(name="muon", lr=1.0, weight_decay=0.0, orthogonalization="newton_schulz")
    optimizers = build(model, config, device=CPU)
    before = model[0].weight.detach().clone()
    torch.manual_seed(0)
    gradient = model[0].weight.grad = torch.randn(6, 6)
    optimizers.step()
    left, _, right = torch.linalg.svd(gradient)
    update = left.T @ (before - model[0].weight.detach()) @ right.T
    # five Newton-Schulz iterations leave singular values within about 0.7 to 1.2 (Jordan 2024), in bf16
    assert torch.allclose(update.diag(), torch.ones(6), atol=0.35)
    assert (update - update.diag().diag()).abs().max() < 0.05


def test_the_factor_multiplies_the_peak_of_each_group():
    optimizers = build(TinyGPT(), OptimizerConfig(name="muon", lr=0.02, auxiliary_lr=0.003), device=CPU)
    for factor in (0.5, 0.1, 1.0):  # not compounded
        optimizers.set_learning_rate(factor)
        for group in optimizers.groups:
            peak = 0.02 if group["role"] == "matrices" else 0.003
            assert group["lr"] == pytest.approx(peak * factor)
        assert optimizers.learning_rate == pytest.approx(0.02 * factor)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("config", [*({"name": n} for n in NAMES), {"name": "sgd", "momentum": 0.0}])
def test_a_restored_run_ends_with_the_same_bits(config, flat):
    config = OptimizerConfig(**config)
    model, resumed = TinyGPT(), TinyGPT(seed=1)
    optimizers = build(model, config, device=CPU)
    train(model, optimizers, 3)
    resumed.load_state_dict(model.state_dict())
    restored = build(resumed, config, device=CPU)
    if flat:
        restored.load_flat_state(optimizers.flat_state())
    else:
        restored.load_state_dict(optimizers.state_dict())
    # the first goes on before the second, so that a shared tensor would show
    train(model, optimizers, 3, first=3)
    train(resumed, restored, 3, first=3)
    assert equal(weights(model), weights(resumed))
    one, other = optimizers.flat_state(), restored.flat_state()
    assert one.keys() == other.keys()
    assert equal(one.values(), other.values())


def test_flat_state_holds_moments_and_step_counters_under_plain_names():
    model = TinyGPT()
    optimizers = build(model, OptimizerConfig(name="muon"), device=CPU)
    assert optimizers.flat_state() == {}
    train(model, optimizers, 2)
    state = optimizers.flat_state()
    assert len(state) == 4 + 3 * 13
    assert state["optimizer.0.3.momentum_buffer"].shape == (4, 8)
    assert state["optimizer.1.12.step"].item() == 2


def test_the_empty_state_from_before_the_first_step_can_be_restored():
    model = TinyGPT()
    optimizers = build(model, OptimizerConfig(), device=CPU)
    train(model, optimizers, 1)
    optimizers.load_flat_state({})
    assert optimizers.flat_state() == {}


@pytest.mark.parametrize(
    "fault", ["missing tensor", "missing parameter", "shape", "foreign", "other optimizer"]
)
def test_a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing(fault):
    model = TinyGPT()
    optimizers = build(model, OptimizerConfig(), device=CPU)
    train(model, optimizers, 1)
    state = {key: tensor.clone() for key, tensor in optimizers.flat_state().items()}
    key = "optimizer.0.2.exp_avg"
    if fault == "missing tensor":
        del state[key]
    elif fault == "missing parameter":
        state = {k: t for k, t in state.items() if not k.startswith("optimizer.0.2.")}
    elif fault == "shape":
        state[key] = torch.zeros(3)
    elif fault == "foreign":
        key = "optimizer.0.99.exp_avg"
        state[key] = torch.zeros(3)
    else:
        state, key = {"optimizer.0.0.momentum_buffer": torch.zeros(8, 4)}, "optimizer.0.0.exp_avg"
    before = {k: t.clone() for k, t in optimizers.flat_state().items()}
    with pytest.raises(CheckpointError, match=r"^optimizer\.0\.\d+\.\w+: this run needs .*, given ") as error:
        optimizers.load_flat_state(state)
    assert str(error.value).startswith(key.rsplit(".", 1)[0])
    assert equal(optimizers.flat_state().values(), before.values())


def test_description_has_a_line_for_every_role_with_its_counts():
    lines = describe_groups(build(TinyGPT(), OptimizerConfig(name="muon", weight_decay=0.25), device=CPU))
    assert len(lines) == 5
    squeezed = [" ".join(line.split()) for line in lines]
    assert squeezed[0] == "matrices 4 tensors 128 parameters weight decay 0.25 peak lr 0.001"
    assert squeezed[3] == "embeddings 2 tensors 56 parameters weight decay 0 peak lr 0.001"
