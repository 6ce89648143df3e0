"""The loss and its gradient: cross-entropy, and what training may add to it, over a few windows at a time.

Logits are by far the largest tensors of a small model, V / D times as large as any other of their width, so they never
stand whole: those of some windows are turned into their loss and its gradient before the next ones are made.

Shape suffixes: P passes, B batch, T positions, D d_model, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.train_config import TrainingConfig
from model.hardware.precision import LossScaler, Precision
from model.network.gpt import GPT

_LOGITS_ON_CPU, _LOGITS_ON_GPU = 2**22, 2**25
"""Elements at once: 16 MiB in fp32 on a CPU, so that caches hold much of them, 128 MiB on a GPU."""


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Negative log-likelihood of each target in nats, in fp32, shape (B, T); 0 where the target is -1."""
    return F.cross_entropy(
        logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none", ignore_index=-1
    ).view_as(targets_BT)


def windows_at_once(model: GPT, hidden_BTD: Tensor, *, passes: int = 1) -> int:
    """Windows, at least one, whose logits are made together."""
    at_once = _LOGITS_ON_CPU if hidden_BTD.device.type == "cpu" else _LOGITS_ON_GPU
    return max(1, at_once // (passes * hidden_BTD.shape[-2] * model.vocab_size))


def add_gradient(
    model: GPT,
    inputs_BT: Tensor,
    targets_BT: Tensor,
    settings: TrainingConfig,
    *,
    tokens: int,
    precision: Precision,
    scaler: LossScaler,
) -> Tensor:
    """Add the gradient of one micro-batch to `.grad`; its cross-entropy in nats a token, without a graph.

    Args:
        model: gets the gradient of `summed_loss` over `tokens`.
        inputs_BT: of the micro-batch.
        targets_BT: likewise, all of them tokens.
        settings: the section `training`.
        tokens: of the whole batch. Dividing by them weights every token alike, also in a short last part.
        precision: of the forward pass; the losses are computed in fp32.
        scaler: of the loss.

    Returns:
        The cross-entropy over `tokens`; of two passes their mean.
    """
    passes = 2 if settings.r_drop else 1
    # both passes as one batch: no two rows of it have the same dropout masks
    with precision.autocast():
        hidden_BTD = model.hidden(inputs_BT.repeat(passes, 1))
    hidden_PBTD = hidden_BTD.view(passes, *inputs_BT.shape, -1)
    rows = windows_at_once(model, hidden_BTD, passes=passes)
    nats = torch.zeros((), device=inputs_BT.device)
    gradients: list[Tensor] = []
    for windows_PBTD, window_targets_BT in zip(
        torch.split(hidden_PBTD.detach(), rows, dim=1), torch.split(targets_BT, rows), strict=True
    ):
        windows_PBTD.requires_grad_()
        with precision.autocast():
            logits_PBTV = model.logits(windows_PBTD)
        loss, window_nats = summed_loss(logits_PBTV, window_targets_BT, settings)
        scaler.scale_loss(loss / (passes * tokens)).backward()  # type: ignore[no-untyped-call]
        nats += window_nats / (passes * tokens)
        assert windows_PBTD.grad is not None
        gradients.append(windows_PBTD.grad)
    hidden_PBTD.backward(torch.cat(gradients, dim=1))  # type: ignore[no-untyped-call]
    return nats


def summed_loss(logits_PBTV: Tensor, targets_BT: Tensor, settings: TrainingConfig) -> tuple[Tensor, Tensor]:
    """What is minimised, and the cross-entropy in nats, summed over the tokens of one or two passes.

    With logits z, probabilities p, and ln Z = ln Σ exp z, each token has the loss

    - (1 - `label_smoothing`) (-ln p of its target) + `label_smoothing` · mean over the vocabulary of -ln p
      (Szegedy et al. 2016, arXiv 1512.00567, section 7),
    - + `z_loss` · (ln Z)² (Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, section 5),
    - and with `r_drop` the mean of these over two passes that drop different units, + `r_drop` · the mean of
      KL(p₁‖p₂) and KL(p₂‖p₁) (Liang et al. 2021, arXiv 2106.14448, equations 1 to 4, all of it divided by 2,
      so that `r_drop` is half of the paper's alpha).

    Args:
        logits_PBTV: of one pass, or with `r_drop` of two.
        targets_BT: all of them tokens.
        settings: the section `training`.

    Returns:
        The loss with its graph, and the cross-entropy without one.
    """
    logits_PBTV = logits_PBTV.float()
    log_p_PBTV = logits_PBTV.log_softmax(dim=-1)
    nats = F.nll_loss(
        log_p_PBTV.flatten(0, 2), targets_BT.repeat(len(log_p_PBTV), 1).flatten(), reduction="sum"
    )
    loss = nats
    if settings.label_smoothing:
        loss = torch.lerp(loss, -log_p_PBTV.mean(dim=-1).sum(), settings.label_smoothing)
    if settings.z_loss:
        log_z_PBT = logits_PBTV[..., 0] - log_p_PBTV[..., 0]
        loss = loss + settings.z_loss * log_z_PBT.square().sum()
    if settings.r_drop:
        one_BTV, other_BTV = log_p_PBTV
        # Σ (p - q) (ln p - ln q) = KL(p‖q) + KL(q‖p); the halves of both are the mean, once for each pass
        divergence = ((one_BTV.exp() - other_BTV.exp()) * (one_BTV - other_BTV)).sum()
        loss = loss + settings.r_drop * divergence
    return loss, nats.detach()
