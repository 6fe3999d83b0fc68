"""What a fine-tuned teacher says of the training rows beside its logits, made once for all trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from harness.data.encode import Encoded
from harness.data.output_names import FEATURES, LAYERS, PARTS, parse_draws
from harness.data.parts import split_parts
from harness.data.rows import Rows
from harness.errors import ModelError
from harness.models.evaluate import Predictions, predict
from harness.seeds import derive_seed


def cached_output(
    name: str,
    model: nn.Module,
    roles: Sequence[Rows],
    encode: Callable[[Rows, str | None], Encoded],
    precision: str,
    seed: int,
) -> np.ndarray:
    """The array of that name (`harness.data.output_names`), [rows, ...], rows in the order of `roles`.

    `seed`: for dropout. Raises ModelError for dropout in a model that has none.
    """
    if name == PARTS:
        split = [split_parts(rows) for rows in roles]
        logits = [
            torch.stack([_all(model, encode(p, f"{type(p).role}.part{k}"), precision).logits for k, p in enumerate(parts)], 1)
            for parts in split
        ]
        return torch.cat(logits).numpy()
    encoded = [encode(rows, None) for rows in roles]
    if name == FEATURES:
        return _joined([_all(model, rows, precision, features=True).features for rows in encoded])
    if name == LAYERS:
        return _joined([_all(model, rows, precision, layers=True).layers for rows in encoded]).astype(np.float16)
    draws = parse_draws(name)
    if draws is None:
        raise ValueError(f"no teacher output is called {name!r}")
    return _dropout_draws(model, encoded, precision, *draws, seed)


def _dropout_draws(
    model: nn.Module, roles: Sequence[Encoded], precision: str, rate: float, draws: int, seed: int
) -> np.ndarray:
    found = []
    with _dropout(model, rate), torch.random.fork_rng():
        for draw in range(draws):
            torch.manual_seed(derive_seed(seed, "dropout draw", draw))
            found.append(torch.cat([_all(model, rows, precision, dropout=True).logits for rows in roles]))
    return torch.stack(found, 1).numpy()


@contextmanager
def _dropout(model: nn.Module, rate: float) -> Iterator[None]:
    modules = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    if not modules:
        raise ModelError(f"a model of type {type(model).__name__} has no dropout to leave on")
    before = [module.p for module in modules]
    for module in modules:
        module.p = rate
    try:
        yield
    finally:
        for module, p in zip(modules, before, strict=True):
            module.p = p


def _all(
    model: nn.Module, rows: Encoded, precision: str, features: bool = False, layers: bool = False, dropout: bool = False
) -> Predictions:
    return predict(model, rows, np.arange(len(rows.ids)), precision, features, layers=layers, dropout=dropout)


def _joined(tensors: Sequence[torch.Tensor | None]) -> np.ndarray:
    return torch.cat([tensor for tensor in tensors if tensor is not None]).numpy()
