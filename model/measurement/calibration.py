"""How a model predicts, beside how much it loses: accuracy, confidence, entropy, calibration, loss by position.

All figures are means over every target token of the split, in evaluation mode, of the pass that gives the loss.
Probabilities are softmax in fp32, by `log_softmax`; sums are in fp64.

Shape suffixes: B windows, T positions of a window, V vocabulary, N target tokens, C bins of confidence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.data.batches import IGNORED

BINS = 15
"""Of confidence, equally wide, as Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599)."""
_ENTRIES = 2**24
"""Probabilities held at a time: 64 MiB, whatever batch and vocabulary."""


class Predictions:
    """The sums over one pass. Give it every batch, then ask for the figures.

    Args:
        block_size: T, positions of a window.
        device: where the logits are.
    """

    def __init__(self, block_size: int, device: torch.device) -> None:
        self._block_size = block_size
        # of each bin: tokens, confidence, hits
        self._bins_C3 = torch.zeros(BINS, 3, dtype=torch.float64, device=device)
        # of all tokens: hits among the first five, entropy
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        # of each position: tokens, nats
        self._positions_T2 = torch.zeros(block_size, 2, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, logits_BTV: Tensor, targets_BT: Tensor) -> None:
        """Take in a batch; positions whose target is -1 do not count. Nothing is read back from the device."""
        B, T, V = logits_BTV.shape
        rows = max(1, _ENTRIES // (T * V))
        for start in range(0, B, rows):
            self._add(logits_BTV[start : start + rows], targets_BT[start : start + rows])

    def _add(self, logits_BTV: Tensor, targets_BT: Tensor) -> None:
        # what does not count becomes rows of zeros: to leave it out, the host would wait for the device to count it
        counts_N = (targets_BT != IGNORED).flatten()
        positions_N = torch.arange(self._block_size, device=counts_N.device).expand_as(targets_BT).flatten()
        targets_N = targets_BT.flatten().clamp(min=0)
        log_p_NV = F.log_softmax(logits_BTV.flatten(0, 1).float(), dim=-1)
        p_NV = log_p_NV.exp()
        # an impossible entry (logit -inf) adds p ln p = 0, its limit; a NaN stays one
        entropy_N = torch.special.entr(p_NV).sum(dim=-1)
        top_N5 = log_p_NV.topk(5, dim=-1)
        confidence_N = top_N5.values[:, 0].exp()
        hits_N5 = top_N5.indices == targets_N[:, None]
        nats_N = -log_p_NV.gather(1, targets_N[:, None]).squeeze(1)

        # bin c holds confidences in (c/C, (c+1)/C]
        bins_N = (confidence_N * BINS).ceil().sub(1).clamp(0, BINS - 1).nan_to_num(BINS - 1).long()
        ones_N = torch.ones_like(nats_N)
        # products with one-hot rows, since sums by index have no fixed order on a GPU
        by_bin_N3 = _columns(counts_N, ones_N, confidence_N, hits_N5[:, 0])
        self._bins_C3 += F.one_hot(bins_N, BINS).double().T @ by_bin_N3
        self._sums += _columns(counts_N, hits_N5.any(dim=1), entropy_N).sum(dim=0)
        one_hot_NT = F.one_hot(positions_N, self._block_size).double()
        self._positions_T2 += one_hot_NT.T @ _columns(counts_N, ones_N, nats_N)

    def figures(self) -> dict[str, float | list[float] | list[dict[str, float]]]:
        """By name:

        accuracy: share of tokens whose largest logit is the target's.
        top5_accuracy: share whose target is among the five largest.
        confidence: mean of max_j p_j.
        entropy: mean of -Σ_j p_j ln p_j, in nats; at most ln V.
        ece: expected calibration error, Σ_c (tokens of bin c ÷ all) |accuracy_c - confidence_c| over `BINS` bins of
            confidence (Guo et al. 2017, eq. 3), from 0 (calibrated) to 1.
        reliability: of each bin with a token, in the order of confidence: mean confidence, accuracy, share of tokens.
        loss_by_position: mean nats a token at each position of the evaluation's window; position t has seen t + 1
            tokens. As long as the window.
        """
        tokens_C, confidence_C, hits_C = self._bins_C3.cpu().unbind(dim=1)
        total = tokens_C.sum()
        filled = tokens_C > 0
        gaps = (hits_C - confidence_C).abs().sum() / total
        top5, entropy = (self._sums.cpu() / total).tolist()
        rows = zip(
            tokens_C[filled].tolist(), confidence_C[filled].tolist(), hits_C[filled].tolist(), strict=True
        )
        counts_T, nats_T = self._positions_T2.cpu().unbind(dim=1)
        return {
            "accuracy": float(hits_C.sum() / total),
            "top5_accuracy": top5,
            "confidence": float(confidence_C.sum() / total),
            "entropy": entropy,
            "ece": float(gaps),
            "reliability": [
                {"confidence": sum_ / n, "accuracy": hits / n, "share": n / float(total)}
                for n, sum_, hits in rows
            ],
            "loss_by_position": (nats_T / counts_T).tolist(),
        }


def _columns(counts_N: Tensor, *columns_N: Tensor) -> Tensor:
    return torch.where(counts_N[:, None], torch.stack([column.double() for column in columns_N], dim=1), 0.0)
