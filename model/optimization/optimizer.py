"""The optimizers: torch's SGD, Adam, AdamW and Muon behind one class, with parameter groups by role.

What decays is up to the configuration: by default the weights of linear layers alone.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from model.config.optimization import OptimizerConfig
from model.errors import CheckpointError
from model.hardware import foreach
from model.hardware.cuda_graph import RecordedUpdate
from model.hardware.device import Device
from model.hardware.precision import has_bf16
from model.network.attention import QueryKeyValue
from model.optimization.muon import Muon
from model.optimization.roles import Role, parameters_by_role


class Optimizers:
    """One or two torch optimizers that step together.

    Every parameter group carries its `role` and `peak_lr`.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self._optimizers = optimizers
        self.parameters: tuple[Tensor, ...] = tuple(p for group in self.groups for p in group["params"])
        """Every parameter once."""
        self.learning_rate: float = self.groups[0]["lr"]
        """That of the first group: of the matrices, where the model has any."""
        self._ended = torch.zeros((), device=self.parameters[0].device)
        self._one = torch.ones_like(self._ended)
        self._copies: dict[Tensor, Tensor] = {}
        """Of what a step changes, where it may have to be taken back; kept between steps."""
        self._recorded: dict[torch.optim.Optimizer, RecordedUpdate] = {}
        self._gradients_stay: Callable[[], bool] = lambda: True

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimizers."""
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        """Update every parameter from its gradient; those without one stay."""
        for optimizer in self._optimizers:
            optimizer.step()

    def step_unless_ended(self, values: Tensor) -> None:
        """`step`, but unless all `values` are finite this and every later one leaves parameters and state as they are.

        The device decides it by itself, and nothing waits for it.
        """
        # sets it to 1 for what is not finite, and never back; multiplies by 1
        foreach.unscale_([values], self._ended, self._one)
        for optimizer in self._optimizers:
            if optimizer.defaults.get("fused"):  # these kernels look at it, where GradScaler puts its own
                optimizer.found_inf = self._ended  # type: ignore[attr-defined]
                optimizer.step()
            elif isinstance(optimizer, Muon) and optimizer in self._recorded and self._gradients_stay():
                optimizer.set_rates()
                gradients = [p.grad for p in _parameters_of(optimizer) if p.grad is not None]
                self._recorded[optimizer]([*_changed_by(optimizer), *gradients])
            else:
                self._do_and_take_back(optimizer, optimizer.step)

    def record_updates(self, device: Device, *, gradients_stay: Callable[[], bool]) -> None:
        """Have `step_unless_ended` launch the many small kernels of Muon's update as a CUDA graph.

        Args:
            device: where the parameters are.
            gradients_stay: whether `.grad` is where it was at the step before. Elsewhere it may be so by chance, and a
                recording would be of no use.
        """
        self._gradients_stay = gradients_stay
        for optimizer in self._optimizers:
            if isinstance(optimizer, Muon):
                update = partial(self._do_and_take_back, optimizer, optimizer.update)
                self._recorded[optimizer] = RecordedUpdate(update, self._ended, device)

    @torch.no_grad()
    def _do_and_take_back(self, optimizer: torch.optim.Optimizer, update: Callable[[], object]) -> None:
        changed = _changed_by(optimizer)
        self._copies |= {tensor: torch.empty_like(tensor) for tensor in changed if tensor not in self._copies}
        copies = [self._copies[tensor] for tensor in changed]
        foreach.copy_(copies, changed)
        update()
        ended = self._ended > 0
        for tensor, copy in zip(changed, copies, strict=True):
            torch.where(ended, copy, tensor, out=tensor)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def set_learning_rate(self, factor: float) -> None:
        """Give each group the share `factor` of its own peak."""
        for group in self.groups:
            group["lr"] = group["peak_lr"] * factor
        self.learning_rate = self.groups[0]["lr"]

    def state_dict(self) -> list[dict[str, Any]]:
        """The state dicts of the torch optimizers, tensors shared with them."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Resume from a state; nothing is shared with it afterwards."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(deepcopy(state))  # torch would take over the very tensors
        self.learning_rate = self.groups[0]["lr"]

    def adam_states(self) -> Iterator[tuple[Tensor, dict[str, Any], dict[str, Any]]]:
        """Parameter, state and group of all that Adam or AdamW has updated: `step`, `exp_avg`, `exp_avg_sq`."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if "exp_avg_sq" in (state := optimizer.state.get(parameter, {})):
                        yield parameter, state, group

    def flat_state(self) -> dict[str, Tensor]:
        """All that the optimizers remember, as `optimizer.<optimizer>.<parameter>.<name>` → tensor.

        Moments, momentum and step counters; empty before the first step. The tensors are the live ones. Rates
        and other settings are left out: they follow from the configuration and the step.
        """
        return {
            f"optimizer.{i}.{index}.{name}": tensor
            for i, state in enumerate(self.state_dict())
            for index, tensors in state["state"].items()
            for name, tensor in tensors.items()
        }

    def load_flat_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from a flat state, with copies of its tensors. The learning rates stay as they are.

        Raises:
            CheckpointError: the state is incomplete or of other parameters or another optimizer. Nothing has
                been changed then.
        """
        expected: dict[str, torch.Size] = {}
        states: list[dict[str, Any]] = []
        for i, optimizer in enumerate(self._optimizers):
            parameters = _parameters_of(optimizer)
            state: dict[int, dict[str, Tensor]] = {}
            for index, parameter in enumerate(parameters):
                for name in _state_names(optimizer):
                    key = f"optimizer.{i}.{index}.{name}"
                    expected[key] = torch.Size() if name == "step" else parameter.shape
                    if key in tensors:
                        state.setdefault(index, {})[name] = tensors[key]
            states.append({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        if tensors:  # a state from before the first step has none
            for key in sorted(expected.keys() | tensors.keys()):
                given = tuple(tensors[key].shape) if key in tensors else "nothing"
                needed = tuple(expected[key]) if key in expected else "nothing"
                if given != needed:
                    raise CheckpointError(f"{key}: this run needs {_shown(needed)}, given {_shown(given)}")
        self.load_state_dict(states)


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _changed_by(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Its parameters, and what it remembers of them."""
    state = [value for values in optimizer.state.values() for value in values.values()]
    return _parameters_of(optimizer) + [value for value in state if torch.is_tensor(value)]


def _shown(shape: tuple[int, ...] | str) -> str:
    return shape if isinstance(shape, str) else f"a tensor of shape {list(shape)}"


def _state_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    if isinstance(optimizer, torch.optim.Adam):  # and AdamW, which torch derives from it
        return ("step", "exp_avg", "exp_avg_sq")
    has_momentum = isinstance(optimizer, Muon) or optimizer.defaults["momentum"] > 0
    return ("momentum_buffer",) if has_momentum else ()


def build(model: nn.Module, config: OptimizerConfig, *, device: torch.device) -> Optimizers:
    """The optimizers of `model` at their peak learning rates.

    Args:
        model: parameters of linear, embedding and normalisation layers, and any others.
        config: the section `optimizer`; its sharpness is not looked at.
        device: where the parameters are; decides whether Adam has a fused kernel.
    """
    groups = _groups(model, config)
    match config.name:
        case "sgd":
            return Optimizers(torch.optim.SGD(groups, momentum=config.momentum))
        case "adam":
            return Optimizers(_adam(torch.optim.Adam, groups, config, device))
        case "adamw":
            return Optimizers(_adam(torch.optim.AdamW, groups, config, device))
        case "muon":
            # embeddings and the output head are AdamW's, as Muon's author has it
            rate, decay = config.auxiliary_lr, config.auxiliary_weight_decay
            matrices = [group for group in groups if group["role"] == "matrices"]
            rest = [
                {
                    **group,
                    "lr": rate,
                    "peak_lr": rate,
                    "weight_decay": 0.0 if group["role"] == "scales" else decay,
                }
                for group in groups
                if group["role"] != "matrices"
            ]
            optimizers: list[torch.optim.Optimizer] = []
            if matrices:
                optimizers.append(_muon(model, matrices, config, device))
            if rest:
                optimizers.append(_adam(torch.optim.AdamW, rest, config, device))
            return Optimizers(*optimizers)
        case _:
            assert_never(config.name)


def _muon(
    model: nn.Module, groups: list[dict[str, Any]], config: OptimizerConfig, device: torch.device
) -> Muon:
    parts = {
        module.weight: module.PARTS
        for module in model.modules()
        if isinstance(module, QueryKeyValue) and config.split_qkv
    }
    for group in groups:
        group["parts"] = [parts.get(parameter, 1) for parameter in group["params"]]
    return Muon(
        groups,
        momentum=config.momentum,
        orthogonalization=config.orthogonalization,
        dtype=torch.bfloat16 if has_bf16(device) else torch.float32,
    )


def _adam(
    kind: type[torch.optim.Adam], groups: list[dict[str, Any]], config: OptimizerConfig, device: torch.device
) -> torch.optim.Adam:
    return kind(groups, betas=config.betas, eps=config.eps, fused=device.type in ("cpu", "cuda"))


def _groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """A group for each role; two where only some of its parameters decay."""
    biases = {p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"}
    members: dict[tuple[Role, float], list[Tensor]] = {}
    for role, tensors in parameters_by_role(model).items():
        for tensor in tensors:
            decays = {
                "matrices": role in ("matrices", "head"),
                "not_biases": tensor not in biases,
                "all": True,
            }
            decay = config.weight_decay if decays[config.weight_decay_on] and role != "scales" else 0.0
            members.setdefault((role, decay), []).append(tensor)
    return [
        {"params": tensors, "role": role, "lr": config.lr, "peak_lr": config.lr, "weight_decay": decay}
        for (role, decay), tensors in members.items()
    ]


def describe_groups(optimizers: Optimizers) -> list[str]:
    """One line for each parameter group: role, tensors, parameters, weight decay and peak learning rate."""
    return [
        f"{group['role']:<10}  {len(group['params']):>4} tensors  "
        f"{sum(p.numel() for p in group['params']):>12,} parameters  "
        f"weight decay {group['weight_decay']:g}  peak lr {group['peak_lr']:g}"
        for group in optimizers.groups
    ]
