"""A forward pass that can be run again with other parameters: the same dropout masks, and only the part that differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harness.models.dropout_masks import DropoutMasks
from harness.models.layers import encoder_layers
from harness.models.run import in_one_pass


class ForwardTrace:
    """One pass of a model on one batch.

    layers   only the last so many encoder layers and the head differ between passes: the passes after the first start at the
             first's hidden states below them. Where a batch is several passes, they start from the beginning all the same
    own_masks   on a GPU, draw the masks of dropout here and use them in all passes: for passes by other kernels than the first
             one's (`harness.models.dropout_masks`). Not for micro-batches, whose way back repeats passes of its own
    """

    def __init__(self, model: nn.Module, layers: int | None = None, own_masks: bool = False) -> None:
        self._model = model
        self._layers = layers if in_one_pass(model) else None
        self._masks = DropoutMasks(self._device) if own_masks and self._device.type == "cuda" else None
        self._modes: list[tuple[nn.Module, bool]] = []
        self._generators: list[Tensor] = []
        """As they were at the start of the first pass."""
        self._generators_there: list[Tensor] = []
        """As they were where its hidden states are those below the layers that move."""
        self._hidden: Tensor | None = None
        self._below: dict[nn.Module, Any] = {}
        """Module below the layers that move -> what it returned."""

    @contextmanager
    def record(self) -> Iterator[None]:
        """The next pass within is the first one."""
        self._modes = [(module, module.training) for module in self._model.modules()]
        self._generators = self._states()
        with ExitStack() as stack:
            if self._masks is not None:
                stack.enter_context(self._masks.drawn())
            if self._layers is not None:
                base: Any = self._model.base_model
                *below, lowest = encoder_layers(self._model)[: 1 - self._layers or None]
                if hasattr(base, "embeddings"):
                    below.insert(0, base.embeddings)
                for module in below:
                    stack.callback(module.register_forward_hook(self._note_output).remove)
                stack.callback(lowest.register_forward_pre_hook(self._note_hidden).remove)
            yield

    @contextmanager
    def modes(self) -> Iterator[None]:
        """Around passes and their ways back: the modes that the modules had in the first one. They are put back."""
        before = [(module, module.training) for module in self._model.modules()]
        _set_modes(self._modes)
        try:
            yield
        finally:
            _set_modes(before)

    @contextmanager
    def repeat(self) -> Iterator[None]:
        """A pass within, in the same `modes`, has the first one's dropout masks; it is the first where there was none.

        The generators are put back.
        """
        if not self._modes:
            with self.record():
                yield
            return
        with ExitStack() as stack:
            if self._model.training:
                stack.enter_context(self._same_masks())
                if self._masks is not None:
                    stack.enter_context(self._masks.again())
            if self._hidden is not None:
                stack.enter_context(self._from_hidden(self._hidden))
            yield

    def _note_output(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        self._below[module] = tuple(_detached(one) for one in output) if isinstance(output, tuple) else _detached(output)

    def _note_hidden(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self._hidden = given[0].detach()
        self._generators_there = self._states()
        if self._masks is not None:
            self._masks.forget()

    def _states(self) -> list[Tensor]:
        """Of the CPU's generator and, on a GPU, of its own."""
        device = self._device
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]

    @contextmanager
    def _same_masks(self) -> Iterator[None]:
        device = self._device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self._set_states(self._generators)
            yield

    def _set_states(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state(states[1], self._device)

    @contextmanager
    def _from_hidden(self, hidden: Tensor) -> Iterator[None]:
        """Embeddings and lower layers hand on what they did, and the lowest layer that moves gets `hidden`, and the generators
        as they were there, whatever the model's own code does in between.
        """
        assert self._layers is not None

        def start(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            if self._model.training:
                self._set_states(self._generators_there)
            return (hidden, *given[1:])

        hook = encoder_layers(self._model)[-self._layers].register_forward_pre_hook(start)
        for module, output in self._below.items():
            module.forward = lambda *_, found=output, **__: found
        try:
            yield
        finally:
            hook.remove()
            for module in self._below:
                del module.forward

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _set_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        module.training = mode
