"""Hugging Face `transformers`: its GPT-2 of the same size, trained with what its `Trainer` does in a step.

bf16 autocast, its fused attention, fused AdamW, clipping and a scheduler; the loss is not fetched, as between two of
Trainer's log lines. Switched off is the cache of keys and values, which training has no use for. Trainer knows no ASAM:
it is the seeds' loop. Needs torch and `transformers`, and nothing of this project.
"""

import torch
import transformers
from torch.profiler import record_function

from tests.benchmarks.speed.seeds_way import AdaptiveAscent, Stream
from tests.benchmarks.speed.shapes import ADAMW, CLIP_NORM


class Way:
    """Training as `Trainer` would with `bf16=True` and `optim="adamw_torch_fused"`."""

    precision = "bf16"
    library = f"transformers {transformers.__version__}"

    def __init__(self, shape, method, tokens, *, device, threads):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.device = torch.device(device)
        config = transformers.GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.block_size,
            n_embd=shape.d_model,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            resid_pdrop=shape.dropout,
            embd_pdrop=shape.dropout,
            attn_pdrop=shape.dropout,
            bos_token_id=0,
            eos_token_id=0,
            use_cache=False,
            attn_implementation="sdpa",
        )
        self.model = transformers.GPT2LMHeadModel(config).to(self.device).train()
        self.stream = Stream(shape, tokens["train"], self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **ADAMW, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)
        self.ascent = AdaptiveAscent(self.model.parameters()) if method == "asam" else None
        self.loss = torch.zeros((), device=self.device)

    def take_steps(self, number):
        """The sum of all losses so far is kept on the device, and not returned."""
        for _ in range(number):
            with record_function("data"):
                inputs, _ = self.stream.batch()
            self._add_gradient(inputs)
            if self.ascent:
                with record_function("optimizer"):
                    self.ascent.climb()
                self._add_gradient(inputs)
                with record_function("optimizer"):
                    self.ascent.come_back()
            with record_function("optimizer"):
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
                self.optimizer.step()
                self.schedule.step()
                self.model.zero_grad()

    def _add_gradient(self, inputs):
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = self.model(input_ids=inputs, labels=inputs).loss
        loss.backward()
        self.loss += loss.detach()
