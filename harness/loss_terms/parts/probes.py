"""Linear classifiers on frozen hidden states, fitted to the labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from harness.data.labelled_rows import CachedRows


def fit_probes(
    layers: CachedRows, labels: np.ndarray, classes: int, *, rows: int, l2: float, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression on each layer: weights [layers, classes, hidden] and biases [layers, classes].

    Minimises mean cross-entropy + l2 / 2 * |weights|^2, the weights being those of columns with mean 0 and variance 1, by
    L-BFGS on at most `rows` of the rows, drawn with `seed`. The problem is strictly convex in the weights, so nothing but the
    rows decides where it ends.
    """
    chosen = np.arange(len(layers))
    if len(chosen) > rows:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, rows, replace=False))
    inputs = torch.from_numpy(layers[chosen]).to(device).transpose(0, 1)  # [layers, rows, hidden]
    targets = torch.from_numpy(np.asarray(labels)[chosen]).to(device).expand(len(inputs), -1)
    mean, scale = inputs.mean(1, keepdim=True), inputs.std(1, keepdim=True, correction=0).clamp_min(1e-4)
    inputs = (inputs - mean) / scale
    weights = torch.zeros(len(inputs), classes, inputs.shape[-1], device=device, requires_grad=True)
    biases = torch.zeros(len(inputs), classes, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, biases], max_iter=100, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        logits = torch.einsum("lrh,lch->lrc", inputs, weights) + biases.unsqueeze(1)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / targets.shape[1]
        loss: Tensor = losses + l2 / 2 * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(objective)  # type: ignore[no-untyped-call]
    found = weights.detach() / scale
    return found, biases.detach() - torch.einsum("lch,lxh->lc", found, mean)
