"""Several trainings in one process, whose students pass their batches together (`harness.models.stacked_pass`).

Each training is what it would be alone: its own loop, strategy, optimiser, checkpoints, failures. It runs in a thread of its
own until it needs a pass; one thread runs at a time, with a random state of its own. Once all that are left wait, those of one
shape take one pass forward, or one backward, together. Whoever ends or fails is missing in the next pass, and the others go on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from harness.models.build import Outputs, run_model
from harness.models.stacked_pass import OwnBatch, shape_of, stacked_logits, stacking_refusal
from harness.models.student_pass import StudentPass
from harness.ranks import Single
from harness.training.failures import is_out_of_memory

Result = TypeVar("Result")


def run_stacked(trainings: Sequence[Callable[[Seat], Result]], stop_at_error: bool = False) -> list[Result | BaseException]:
    """Run all to their ends, each with a seat, which is the `Ranks` of its `Training`. What each returned, or raised.

    An exception in this thread (an interruption) ends them all, and is raised; with `stop_at_error` so is one of theirs.
    """
    seats = [Seat(training, len(trainings)) for training in trainings]
    passes = _Passes()
    with _random_state_kept():
        try:
            while live := [seat for seat in seats if not seat.ended]:
                for seat in live:
                    while not (seat.ended or isinstance(seat.asked, _Forward | _Backward)):
                        _go_on(seat, stop_at_error)
                passes.answer([seat for seat in live if not seat.ended])
                for seat in live:
                    if not seat.ended:
                        _go_on(seat, stop_at_error)
        finally:
            for seat in seats:
                seat.end()
    return [seat.result for seat in seats]


def _go_on(seat: Seat, stop_at_error: bool) -> None:
    seat.go_on()
    if stop_at_error and isinstance(seat.result, BaseException):
        raise seat.result


@dataclass
class _Forward:
    model: nn.Module
    inputs: Mapping[str, Tensor]
    autocast: torch.dtype | None


@dataclass
class _Backward:
    attached: Tensor
    gradient: Tensor


@dataclass
class _Call:
    function: Callable[[], Any]


class _Abandoned(BaseException):
    """Ends a thread whose training nobody waits for any more."""


class Seat(Single):
    """A training's place among the others."""

    def __init__(self, training: Callable[[Seat], Any], stacked: int) -> None:
        self.stacked = stacked
        self.asked: _Forward | _Backward | _Call | None = None
        self.answer: Any = None
        self.error: BaseException | None = None
        self.result: Any = None
        self.ended = False
        self.random_state = torch.get_rng_state()
        self._device_state = _device_state()
        self._training = training
        self._pending: tuple[Tensor, Tensor] | None = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True, name="stacked training")
        self._thread.start()

    def wrap(self, model: Any, find_unused: bool) -> Any:
        if isinstance(model, StudentPass):
            model.run = self._pass
        return model

    def check_gradients(self, model: nn.Module) -> None:
        """After the training's own way back to its logits: the rest of the way, with the others."""
        if self._pending is None:
            return
        (attached, logits), self._pending = self._pending, None
        self._ask(_Backward(attached, torch.zeros_like(logits) if logits.grad is None else logits.grad))

    def in_main_thread(self, function: Callable[[], Result]) -> Result:
        """What it returns or raises, called where `run_stacked` was: for hooks that write to databases."""
        found: Result = self._ask(_Call(function))
        return found

    def go_on(self) -> None:
        """Let the training run until it asks for something, or ends. Calls are answered at once."""
        torch.set_rng_state(self.random_state)
        _set_device_state(self._device_state)
        self.asked = None
        self._turn.release()
        self._back.acquire()
        self.random_state, self._device_state = torch.get_rng_state(), _device_state()
        if isinstance(self.asked, _Call):
            try:
                self.answer, self.error = self.asked.function(), None
            except Exception as error:
                self.error = error

    def end(self) -> None:
        while not self.ended:
            self.error = _Abandoned()
            self._turn.release()
            self._back.acquire()
        self._thread.join()

    def _run(self) -> None:
        self._turn.acquire()
        try:
            self.result = self._training(self) if self.error is None else self.error
        except BaseException as error:  # handed to whoever waits
            self.result = error
        self.ended = True
        self._back.release()

    def _ask(self, question: _Forward | _Backward | _Call) -> Any:
        self.asked = question
        self._back.release()
        self._turn.acquire()
        answer, error = self.answer, self.error
        self.answer = self.error = None
        if error is not None:
            raise error
        return answer

    def _pass(self, model: nn.Module, inputs: Mapping[str, Tensor], features: bool, layers: bool) -> Outputs:
        self._pending = None
        kind = next(iter(inputs.values())).device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        attached = None if features or layers else self._ask(_Forward(model, inputs, low))
        if attached is None:  # nobody to share it with
            return run_model(model, inputs, features, layers)
        logits = attached.detach().requires_grad_()
        self._pending = attached, logits
        return Outputs(logits, None)


@dataclass
class _Passes:
    together: bool = True
    shapes: WeakKeyDictionary[nn.Module, Hashable] = field(default_factory=WeakKeyDictionary)
    said: set[str] = field(default_factory=set)

    def answer(self, seats: Sequence[Seat]) -> None:
        """Give each its logits with their way back, or take that way. A pass that fails does so for each, which
        then tries again alone, in micro-batches, where memory lacked.
        """
        groups: dict[Hashable, list[Seat]] = {}
        for seat in seats:
            seat.answer = seat.error = None
            if isinstance(seat.asked, _Forward):
                shape = self._shape(seat.asked.model) if self.together else None
                if shape is not None:
                    groups.setdefault((shape, seat.asked.autocast), []).append(seat)
        for group in groups.values():
            if len(group) > 1:
                self._safely(group, _forward)
        if backward := [seat for seat in seats if isinstance(seat.asked, _Backward)]:
            self._safely(backward, _backward)

    def _shape(self, model: nn.Module) -> Hashable:
        if model not in self.shapes:
            self.shapes[model] = shape_of(model)
            if refusal := stacking_refusal(model):
                self._say_once(f"students are passed one by one: {refusal}")
            elif next(model.parameters()).device.type != "cpu":
                self._say_once("stacked students have other dropout masks on a GPU than alone: their numbers are others, too")
        return self.shapes[model]

    def _say_once(self, what: str) -> None:
        if what not in self.said:
            self.said.add(what)
            logging.getLogger("harness").warning("%s", what)

    def _safely(self, seats: Sequence[Seat], run: Callable[[Sequence[Seat]], None]) -> None:
        try:
            run(seats)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                self.together = False
                logging.getLogger("harness").warning("out of memory: %s stacked trials go on one by one", len(seats))
            for seat in seats:  # each says in its own words what became of it
                seat.answer, seat.error = None, error


def _forward(seats: Sequence[Seat]) -> None:
    batches = []
    for seat in seats:
        assert isinstance(seat.asked, _Forward)
        device = next(seat.asked.model.parameters()).device
        generator = torch.Generator(device)
        state = seat.random_state if device.type == "cpu" else seat._device_state
        assert state is not None
        generator.set_state(state)
        batches.append(OwnBatch(seat.asked.model, seat.asked.inputs, generator))
    assert isinstance(seats[0].asked, _Forward)
    low = seats[0].asked.autocast
    with torch.autocast(batches[0].generator.device.type, dtype=low, enabled=low is not None):
        logits = stacked_logits(batches)
    for seat, batch, own in zip(seats, batches, logits, strict=True):
        if batch.generator.device.type == "cpu":
            seat.random_state = batch.generator.get_state()
        else:
            seat._device_state = batch.generator.get_state()
        seat.answer = own


def _backward(seats: Sequence[Seat]) -> None:
    asked = [seat.asked for seat in seats if isinstance(seat.asked, _Backward)]
    torch.autograd.backward([one.attached for one in asked], [one.gradient for one in asked])


def _device_state() -> Tensor | None:
    return torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]


def _set_device_state(state: Tensor | None) -> None:
    if state is not None:
        torch.cuda.set_rng_state(state)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    before, device = torch.get_rng_state(), _device_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)
        _set_device_state(device)
