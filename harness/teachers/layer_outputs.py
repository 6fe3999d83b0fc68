"""What a fine-tuned teacher says of the training rows beside its logits, made once for all trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness.data.encode import Encoded
from harness.data.output_names import FEATURES, LAYERS, NUMBER_OF_PARTS, PARTS, parse_draws
from harness.data.parts import split_parts
from harness.data.roles import load_training_rows
from harness.data.rows import Rows
from harness.data.teacher_outputs import TeacherOutputs
from harness.errors import ModelError
from harness.models.build import count_parameters, hidden_size, number_of_layers
from harness.models.check import model_shape
from harness.models.evaluate import Predictions, predict
from harness.seeds import derive_seed
from harness.study.schema import TeacherSpec
from harness.study.tasks import TaskSpec


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


def random_outputs(
    teacher: TeacherSpec, task: TaskSpec, data_digest: str, outputs: Sequence[str], cache: Path
) -> TeacherOutputs:
    """What a teacher that is not made yet would say, as far as shapes and memory go. Raises ModelError.

    A row of an array is a window on random numbers, one further on than the row before: like a memory-mapped array it takes
    no memory until it is read.
    """
    model = model_shape(teacher.checkpoint(task.name), len(task.labels), cache)
    roles = load_training_rows(cache, data_digest)
    ids = np.sort(np.concatenate([roles.fit.ids, roles.meta.ids, roles.select.ids]))
    generator = np.random.default_rng(0)

    def drawn(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        size = math.prod(shape)
        numbers: np.ndarray = generator.standard_normal(len(ids) + size - 1, np.float32).astype(dtype)
        return np.lib.stride_tricks.sliding_window_view(numbers, size).reshape(len(ids), *shape)

    def other(name: str) -> np.ndarray:
        if name == FEATURES:
            return drawn((hidden_size(model),))
        if name == LAYERS:
            return drawn((number_of_layers(model), hidden_size(model)), np.float16)
        draws = parse_draws(name)
        return drawn((NUMBER_OF_PARTS if draws is None else draws[1], len(task.labels)))

    return TeacherOutputs(
        ids=ids,
        all_logits=drawn((len(task.labels),)),
        others={name: other(name) for name in outputs},
        report={},
        parameters=count_parameters(model),
        hidden_size=hidden_size(model),
        content="",
    )


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
