"""The exponential moving average of the weights, as a model of its own beside the one that is trained."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor

from model.checkpoint import load_weights
from model.hardware import foreach
from model.network.gpt import GPT

_PREFIX = "average."


class WeightAverage:
    """After update t the mean of the weights w₁ to w_t behind each update, w_i weighing decay^(t - i).

    That is m / (1 - decay^t) for Polyak's m ← decay m + (1 - decay) w with m = 0 at first: Adam's correction of
    the start (Kingma & Ba 2015, arXiv 1412.6980, section 3), without which a short run's average would be made
    of its initial weights. A model of its own, so that evaluating it leaves the trained one alone.
    """

    def __init__(self, model: GPT, *, decay: float) -> None:
        self.model = deepcopy(model).requires_grad_(False)
        """With the averaged weights; those of `model` before the first update."""
        self._decay = decay

    @torch.no_grad()
    def update(self, model: GPT, *, updates: int) -> None:
        """Take in the weights of `model` behind its update number `updates`, counted from 1."""
        share = (1 - self._decay) / (1 - self._decay**updates)
        foreach.lerp_(list(self.model.parameters()), list(model.parameters()), share)

    def flat_state(self) -> dict[str, Tensor]:
        """The averaged weights, as `average.<name>` → tensor."""
        return {f"{_PREFIX}{name}": tensor for name, tensor in self.model.state_dict().items()}

    def load_flat_state(self, tensors: Mapping[str, Tensor], name: str) -> None:
        """Resume from a flat state. Raises CheckpointError, naming `name`, when it does not fit."""
        weights = {k.removeprefix(_PREFIX): t for k, t in tensors.items() if k.startswith(_PREFIX)}
        load_weights(self.model, weights, name)
