"""The sections `optimizer` and `schedule`: from a gradient to the next weights. Imports no torch."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.section import Section

Orthogonalization = Literal["newton_schulz", "polar_express_4", "polar_express_3"]


class SharpnessConfig(Section):
    """Sharpness-aware minimisation around the optimizer (two gradients a step)."""

    method: Literal["none", "sam", "asam"] = "none"
    """SAM (Foret et al. 2021, arXiv 2010.01412), or its adaptive form ASAM (Kwon et al. 2021, arXiv 2102.11600)."""
    rho: float = Field(0.05, gt=0)
    """Radius of the ascent; published defaults are 0.05 for SAM and 0.5 to 2 for adaptive SAM."""
    same_dropout: bool = False
    """Use the first pass's dropout masks in the second one."""


class OptimizerConfig(Section):
    """The update rule. `muon` updates the matrices of the blocks with Muon and the rest with AdamW."""

    name: Literal["sgd", "adam", "adamw", "muon"] = "adamw"
    """Which update rule."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    auxiliary_lr: float = Field(1e-3, gt=0)
    """Peak learning rate of muon's AdamW part."""
    auxiliary_weight_decay: float = Field(0.0, ge=0)
    """Decoupled, on all of muon's AdamW part: embeddings, head, norms and biases; LayerScale's vectors and the
    value residual's scalars never decay."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled; for sgd and adam L2, which is added to the gradient."""
    weight_decay_on: Literal["matrices", "all", "not_biases"] = "matrices"
    """The matrices of linear layers, every parameter, or all but the biases of linear layers and norms (what
    the filter by names of seed document 004 came to). With muon the matrices alone decay at this rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of adam, adamw and muon's AdamW part: decays of the averages of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Of the same: added to the root of the second average."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Of sgd and muon."""
    orthogonalization: Orthogonalization = "polar_express_4"
    """How muon makes an update orthogonal (`model/optimization/muon.py`): by the five polynomials it was published
    with, or by four or three better ones, which cost less and end alike (`studies/muon`)."""
    split_qkv: bool = True
    """Muon makes the updates of query, key and value orthogonal each by itself, which ends lower (`studies/muon`);
    otherwise as one matrix, as published, in which the largest of the three hides the others, at sqrt(3) times the
    rate."""
    clip_norm: float | None = Field(1.0, gt=0)
    """Largest global L2 norm of a gradient; null for no clipping."""
    sharpness: SharpnessConfig = SharpnessConfig()

    @model_validator(mode="after")
    def _betas_in_range(self) -> "OptimizerConfig":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, given {list(self.betas)}")
        return self


class ScheduleConfig(Section):
    """Learning rate over the token budget: linear warm-up, then a decay to a floor."""

    decay: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """`wsd` stays at the peak and decays over the last `decay_fraction`."""
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the budget over which the rate rises; the first update already has a rate above zero."""
    decay_fraction: float = Field(0.2, gt=0, le=1)
    """Of wsd: share of the budget, at its end, over which the rate falls."""
    decay_shape: Literal["linear", "cosine", "sqrt"] = "linear"
    """Of wsd's decay; `sqrt` is 1 - sqrt(part of it done)."""
    floor_fraction: float = Field(0.1, ge=0, le=1)
    """Lowest rate as a share of the peak."""
    floor_lr: float | None = Field(None, ge=0)
    """Lowest rate as a number; takes the place of `floor_fraction`. It is that of the first group: muon's AdamW part
    ends at the same share of its own peak."""

    @model_validator(mode="after")
    def _phases_fit(self) -> "ScheduleConfig":
        if self.decay == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                "warmup_fraction + decay_fraction must be at most 1, given "
                f"{self.warmup_fraction} + {self.decay_fraction}"
            )
        return self
