"""Out of memory in a training step: the step is repeated in twice as many micro-batches, down to single samples."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch

from harness.loss_terms.bound import LossTerms
from harness.training.failures import is_out_of_memory
from strategies.base import Strategy

Result = TypeVar("Result")


class InMicroBatches(Protocol):
    """What passes batches through the student."""

    micro_batches: int


class OutOfMemoryError(MemoryError):
    """The student's pass does not fit, whatever its batch."""


class MicroBatching:
    """Chooses the number of micro-batches. It only ever rises, so that a training meets each shortage once."""

    def __init__(
        self,
        students: Sequence[InMicroBatches],
        strategy: Strategy[Any],
        terms: LossTerms,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self._students = students
        self._strategy = strategy
        self._terms = terms
        self._generator = generator
        self._device = device

    @property
    def count(self) -> int:
        return self._students[0].micro_batches

    @count.setter
    def count(self, value: int) -> None:
        for student in self._students:
            student.micro_batches = value

    def run(self, attempt: Callable[[], Result], clear: Callable[[], None], rows: int) -> Result:
        """`attempt`, again and again with smaller micro-batches of `rows` samples until it fits.

        Before another try `clear` drops what the last one left (gradients), and strategy and random generators are put back: a
        step that was repeated ends as if it had fitted at once. Raises OutOfMemoryError where single samples do not fit.
        """
        before = self._state()
        while True:
            try:
                return attempt()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.count >= rows:
                    raise OutOfMemoryError(
                        f"a pass does not fit into memory, even with a batch of {rows} samples split into single ones: {error}"
                    ) from error
                said = str(error)
            # only here, after the exception has let go of the graph
            clear()
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self._put_back(before)
            self.count = min(2 * self.count, rows)
            logging.getLogger("harness").warning(
                "out of memory: batches of %s samples are passed in %s parts from here on (%s)",
                rows,
                self.count,
                (said.splitlines() or [""])[0][:200],
            )

    def _state(self) -> tuple[Any, ...]:
        accelerator = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        buffers = [buffer.clone() for buffer in self._terms.module.buffers()]
        strategy = copy.deepcopy(dict(self._strategy.state_dict()))
        return strategy, self._generator.get_state(), torch.get_rng_state(), accelerator, buffers

    def _put_back(self, state: tuple[Any, ...]) -> None:
        strategy, generator, cpu, accelerator, buffers = state
        self._strategy.load_state_dict(copy.deepcopy(strategy))
        self._generator.set_state(generator)
        torch.set_rng_state(cpu)
        if accelerator is not None:
            torch.cuda.set_rng_state(accelerator, self._device)
        for buffer, value in zip(self._terms.module.buffers(), buffers, strict=True):
            buffer.copy_(value)
