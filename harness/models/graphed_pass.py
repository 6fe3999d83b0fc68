"""A student's pass as CUDA graphs: one launch forward and one backward in the place of hundreds, of batches of few shapes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from harness.models.families import usable_positions
from harness.models.run import Outputs, run_model

WIDTH_STEP = 16
"""Batches are padded to a multiple of it, so that their shapes are few."""
AT_MOST = 24
"""Shapes that are captured: each graph keeps memory of its own."""
WARM_UP = 3

Pass = Callable[..., Tensor]
"""From the inputs, in order, to logits, with the way back to the parameters."""
Capture = Callable[[nn.Module, tuple[Tensor, ...]], Pass]


def capture_graph(model: nn.Module, inputs: tuple[Tensor, ...]) -> Pass:
    """Raises where something in the model waits for the device, or the memory does not suffice."""
    device = inputs[0].device
    stream, state = torch.cuda.current_stream(device), torch.cuda.get_rng_state(device)
    kind = device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    try:
        with torch.autocast(kind, dtype=low, enabled=low is not None, cache_enabled=False):
            graphed = torch.cuda.make_graphed_callables(model, inputs, num_warmup_iters=WARM_UP, allow_unused_input=True)
    finally:
        torch.cuda.set_stream(stream)  # a capture that fails leaves its own
        torch.cuda.set_rng_state(state, device)  # passes to warm up draw dropout, too
    return cast(Pass, graphed)


class GraphedPass:
    """In the place of `run_model` for a student in training. Numbers are those of `run_model` on batches padded as widely.

    What cannot be captured is passed by `run_model`, and said once: a model that waits for the device, and shapes beyond
    `AT_MOST`. So, without a word, is what is no training step's pass: in evaluation, without gradients, with hidden states.
    """

    def __init__(self, capture: Capture = capture_graph) -> None:
        self.graphs: dict[tuple[int, ...], Pass] = {}
        """By the shape of the inputs."""
        self.captured = 0
        """Shapes, also of graphs that were given up since."""
        self._capture = capture
        self._refused = False
        self._said: set[str] = set()

    def __call__(self, model: nn.Module, inputs: Mapping[str, Tensor], features: bool = False, layers: bool = False) -> Outputs:
        if features or layers or self._refused or not (model.training and torch.is_grad_enabled()):
            return run_model(model, inputs, features, layers)
        given = padded(model, inputs)
        shape = tuple(given["input_ids"].shape)
        if shape not in self.graphs:
            if len(self.graphs) == AT_MOST:
                self._say(f"batches of more than {AT_MOST} shapes: the others are passed without a graph")
                return run_model(model, inputs)
            try:
                self.graphs[shape] = self._capture(_Logits(model, tuple(given)), tuple(given.values()))
            except Exception as error:  # whatever it is: what is no matter of graphs, the pass without one raises again
                self.give_up(f"no CUDA graph of a batch of {shape[0]} x {shape[1]} tokens, so none is used: {error}")
                return run_model(model, inputs)
            self.captured += 1
        # a copy: the next replay would overwrite what a strategy keeps of a step
        return Outputs(self.graphs[shape](*given.values()).clone(), None)

    def give_up(self, why: str) -> None:
        """Free the graphs' memory, and pass all else without them."""
        self._refused = True
        self.graphs.clear()
        self._say(why)

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logging.getLogger("harness").warning("training.compile: graphs: %s", what)


class _Logits(nn.Module):
    """`run_model` as a module, of tensors alone, which is what can be captured."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._names = names

    def forward(self, *given: Tensor) -> Tensor:
        return run_model(self.model, dict(zip(self._names, given, strict=True))).logits


def padded(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each [batch, length] with the length rounded up to `WIDTH_STEP`, as far as the model has positions."""
    config: Any = model.config
    length = inputs["input_ids"].shape[1]
    wide = -(-length // WIDTH_STEP) * WIDTH_STEP
    more = max(0, min(wide, usable_positions(config.to_dict()) or wide) - length)
    fillers = {"input_ids": int(getattr(config, "pad_token_id", None) or 0)}
    return {name: F.pad(tensor, (0, more), value=fillers.get(name, 0)) for name, tensor in inputs.items()}
