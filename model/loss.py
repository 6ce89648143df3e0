"""The loss: cross-entropy, and what training may add to it.

Shape suffixes: B batch, T positions, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import TrainingConfig
from model.precision import Precision


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Negative log-likelihood of each target in nats, in fp32, shape (B, T); 0 where the target is -1."""
    return F.cross_entropy(
        logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none", ignore_index=-1
    ).view_as(targets_BT)


def training_loss(
    model: Callable[[Tensor], Tensor],
    inputs_BT: Tensor,
    targets_BT: Tensor,
    settings: TrainingConfig,
    *,
    tokens: int,
    precision: Precision,
) -> tuple[Tensor, Tensor]:
    """What one micro-batch adds to the loss that is minimised, and to the cross-entropy in nats a token.

    With logits z, probabilities p, and ln Z = ln Σ exp z, each token has the loss

    - (1 - `label_smoothing`) (-ln p of its target) + `label_smoothing` · mean over the vocabulary of -ln p
      (Szegedy et al. 2016, arXiv 1512.00567, section 7),
    - + `z_loss` · (ln Z)² (Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, section 5),
    - and with `r_drop` the mean of these over two passes that drop different units, + `r_drop` · the mean of
      KL(p₁‖p₂) and KL(p₂‖p₁) (Liang et al. 2021, arXiv 2106.14448, equations 1 to 4, all of it divided by 2,
      so that `r_drop` is half of the paper's alpha).

    Args:
        model: from tokens to logits, shape (B, T) to (B, T, V).
        inputs_BT: of the micro-batch.
        targets_BT: likewise, all of them tokens.
        settings: the section `training`.
        tokens: of the whole batch. Dividing by them weights every token alike, also in a short last part.
        precision: of the forward pass; the losses are computed in fp32.

    Returns:
        The loss with its graph, and the cross-entropy (mean of both passes) without one.
    """
    if settings.r_drop:  # one pass over everything twice: no two rows have the same masks
        inputs_BT, targets_BT, tokens = inputs_BT.repeat(2, 1), targets_BT.repeat(2, 1), 2 * tokens
    with precision.autocast():
        logits_BTV = model(inputs_BT)
    logits_BTV = logits_BTV.float()
    nats = cross_entropy(logits_BTV, targets_BT).sum() / tokens
    loss = nats
    if settings.label_smoothing or settings.z_loss:
        log_z_BT = logits_BTV.logsumexp(dim=-1)
        uniform = (log_z_BT - logits_BTV.mean(dim=-1)).sum() / tokens
        loss = torch.lerp(loss, uniform, settings.label_smoothing)
        loss = loss + settings.z_loss * log_z_BT.square().sum() / tokens
    if settings.r_drop:
        one_BTV, other_BTV = logits_BTV.log_softmax(dim=-1).chunk(2)
        # Σ (p - q) (ln p - ln q) = KL(p‖q) + KL(q‖p), and there are tokens / 2 pairs
        divergence = ((one_BTV.exp() - other_BTV.exp()) * (one_BTV - other_BTV)).sum() / tokens
        loss = loss + settings.r_drop * divergence
    return loss, nats.detach()
