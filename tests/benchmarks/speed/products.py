"""The matrix products of a training step and nothing else: what the hardware gives at these shapes."""

import torch

from model.config.counts import module_counts
from model.config.train_config import TrainConfig


class Way:
    """A step is, for every linear layer and the output head: its product, and those of its two gradients."""

    def __init__(self, shape, method, tokens, *, device, threads):
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        counts = module_counts(TrainConfig.model_validate(shape.tree(method)))
        linear = [count for count in counts if count.flops_per_token and count.shapes]
        self.layers = [(count.copies, *count.shapes[0]) for count in linear]
        self.tokens = shape.tokens_per_step
        self.flops_per_step = 3 * self.tokens * sum(count.flops_per_token for count in linear)
        self.operands = {}

    def take_steps(self, number, precision="bf16"):
        for _ in range(number):
            for copies, inputs, weight, gradient in self._operands(precision):
                for _ in range(copies):
                    inputs @ weight.mT
                    gradient @ weight
                    gradient.mT @ inputs

    def _operands(self, precision):
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        if precision not in self.operands:
            self.operands[precision] = [
                (copies, *(torch.randn(size, device=self.device, dtype=dtype)
                           for size in ((self.tokens, d_in), (d_out, d_in), (self.tokens, d_out))))
                for copies, d_out, d_in in self.layers
            ]  # fmt: skip
        return self.operands[precision]
