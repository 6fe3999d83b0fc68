"""A very small training on the real components, in which any strategy can be watched.

A one-layer student, random rows, and teachers that are right three times out of five.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.data.batches import LengthBucketedBatches, MetaBatches
from harness.data.encode import Encoded
from harness.data.labelled_rows import CachedRows, LabelledRows
from harness.data.output_names import FEATURES, LAYERS, NUMBER_OF_PARTS, PARTS, parse_draws
from harness.data.word_drop import WordDrop
from harness.loss_terms import TermNeeds, TermSetup, needs_of_terms
from harness.loss_terms.bound import LossTerms
from harness.models.build import build_model, hidden_size, run_batch
from harness.ranks import Single
from harness.study.schema import ModelSpec
from harness.training.weighting import Moment, Weighting
from strategies.base import Context, Needs, RoleView, Setup, Strategy

CLASSES = 3
EPOCHS = 5
BATCH = 8
FIT_ROWS = 24
META_ROWS = 16
STEPS_PER_EPOCH = FIT_ROWS // BATCH
STEPS = EPOCHS * STEPS_PER_EPOCH
LEARNING_RATE = 5e-3
TEMPERATURE = 2.0
VOCABULARY = 30
LENGTH = 6
TEACHER_HIDDEN = 5
TEACHER_LAYERS = 2
TEACHER_RIGHT = 0.6
STUDENT = ModelSpec(
    config={
        "model_type": "bert",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 16,
    },
    dropout=0.0,
)


@dataclass(frozen=True)
class Trace:
    """What a strategy did in one training."""

    weights: list[dict[str, Tensor]]
    """Step by step, the effective weights by term, in the terms' shapes."""
    contexts: list[Context]
    """What the strategy saw in each step."""
    forward: int
    """Student passes beside the training steps' own, in samples."""
    backward: int


class World:
    """One task, one initial student, the given number of teachers; every `run` starts from the same point."""

    def __init__(self, needs: Needs, teachers: int, *, rows: int = FIT_ROWS, batch: int = BATCH, flipped: float = 0.0) -> None:
        """`rows` to train on, a share of whose labels is `flipped`: the teachers, and the meta set, know the right ones."""
        self.needs = needs
        self.rows, self.batch = rows, batch
        self.steps = EPOCHS * -(-rows // batch)
        wanted = needs_of_terms(needs)
        generator = np.random.default_rng(0)
        fit = _rows(generator, rows, teachers, FEATURES in wanted.teacher_outputs, first_id=50)
        meta = _rows(generator, META_ROWS, teachers, FEATURES in wanted.teacher_outputs, first_id=9000)
        self.fit, self.meta = _with_needs(fit, wanted, generator), _with_needs(meta, wanted, generator)
        if flipped:
            self.fit = _with_flips(self.fit, flipped, generator)
        if wanted.word_drop:
            self.fit = replace(self.fit, word_drop=WordDrop(self.fit.encoded, wanted.word_drop, 13))
        self.model = copy.deepcopy(_student())
        self._initial = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.setup = Setup(
            classes=CLASSES,
            teachers=tuple(f"teacher{k}" for k in range(teachers)),
            epochs=EPOCHS,
            steps_per_epoch=-(-rows // batch),
            temperature=TEMPERATURE,
            fit=_view(self.fit),
            meta=_view(self.meta) if needs.needs_meta_set else None,
            student_hidden_size=hidden_size(self.model),
            teacher_hidden_sizes=(TEACHER_HIDDEN,) * teachers,
            seed=7,
            device=torch.device("cpu"),
        )

    def run(
        self,
        make: Callable[[], Strategy[Any]],
        *,
        steps: int | None = None,
        renew_before: Collection[int] = (),
        watch: Callable[[Strategy[Any]], Strategy[Any]] = lambda strategy: strategy,
    ) -> Trace:
        """Train a student with the strategy that `make` returns, to the end or for its first `steps`.

        Before each step in `renew_before` the strategy is replaced by a new one that gets its state through a file, as a
        checkpoint does. `watch` may put something around the strategy. Raises whatever the strategy raises.
        """
        self.model.load_state_dict(self._initial)
        self.model.train()
        terms = LossTerms(self.needs, self.term_setup())
        optimizer = torch.optim.AdamW([*self.model.parameters(), *terms.parameters], lr=LEARNING_RATE, fused=True)
        generator = torch.Generator().manual_seed(11)
        passes = {"forward": 0, "backward": 0}

        def count(forward: int = 0, backward: int = 0) -> None:
            passes["forward"] += forward
            passes["backward"] += backward

        strategy = watch(make())
        weighting = Weighting(
            self.model,
            strategy,
            self.needs,
            self.fit,
            self.meta if self.needs.needs_meta_set else None,
            Single(),
            count,
            temperature=TEMPERATURE,
            meta_batches=MetaBatches(self.meta.encoded.lengths, self.batch, 3) if self.needs.needs_meta_set else None,
            precision="fp32",
            optimizer=optimizer,
            terms=terms,
        )
        batches = LengthBucketedBatches(self.fit.encoded.lengths, self.batch, 5)
        found: list[dict[str, Tensor]] = []
        contexts: list[Context] = []
        for epoch in range(EPOCHS):
            sums: dict[str, float] = {}
            for rows in batches.epoch(epoch):
                step = len(found)
                if step == steps:
                    return Trace(found, contexts, passes["forward"], passes["backward"])
                if step in renew_before:
                    state = _through_a_file(strategy.state_dict())
                    strategy = weighting.strategy = watch(make())
                    strategy.load_state_dict(state)
                batch = self.fit.batch(rows, len(rows), self.setup.device, epoch)
                moment = Moment(epoch, step, step / (self.steps - 1), LEARNING_RATE)
                with weighting.forward_pass(moment):
                    outputs = run_batch(self.model, batch, terms.needs.student_features, terms.needs.student_layers)
                count(batch.samples - len(rows), batch.samples - len(rows))
                weighted = weighting.loss(moment, rows, batch, outputs, generator)
                weighted.loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                strategy.after_step(weighted.context)
                found.append({name: weight.clone() for name, weight in weighted.weights.items()})
                contexts.append(weighted.context)
                for name, values in weighted.terms.items():
                    teachers = values.shape[0] if values.dim() == 2 else 1
                    sums[name] = sums.get(name, 0.0) + float(values.sum()) / teachers
            strategy.end_epoch(epoch, {name: total / self.rows for name, total in sums.items()})
        return Trace(found, contexts, passes["forward"], passes["backward"])

    def term_setup(self) -> TermSetup:
        assert STUDENT.config is not None
        return TermSetup(
            classes=CLASSES,
            student_layers=int(STUDENT.config["num_hidden_layers"]),
            student_hidden_size=self.setup.student_hidden_size,
            vocabulary=VOCABULARY,
            fit=self.fit,
            seed=self.setup.seed,
            device=self.setup.device,
        )


@cache
def _student() -> PreTrainedModel:
    """Everybody's initial student. Building it takes as long as training it."""
    return build_model(STUDENT, CLASSES, 0, VOCABULARY)


def _through_a_file(state: Any) -> Any:
    """Saved and loaded as checkpoints are. Raises pickle.UnpicklingError for anything but tensors and plain values."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _rows(generator: np.random.Generator, rows: int, teachers: int, features: bool, first_id: int) -> LabelledRows:
    labels = generator.integers(CLASSES, size=rows)
    tokens = generator.integers(5, VOCABULARY, size=(rows, LENGTH))
    tokens[:, 1] = 5 + labels  # something to learn
    encoded = Encoded(
        ids=first_id + 7 * np.arange(rows),
        labels=labels,
        flipped=None,
        lengths=np.full(rows, LENGTH, np.int32),
        tokens=tokens.reshape(-1).astype(np.int32),
        segments=None,
        starts=LENGTH * np.arange(rows),
        pad_token=0,
    )
    right = generator.random((teachers, rows)) < TEACHER_RIGHT
    preferred = np.where(right, labels, (labels + 1) % CLASSES)
    logits = generator.normal(size=(teachers, rows, CLASSES)) + 3 * np.eye(CLASSES)[preferred]
    pooled = tuple(generator.normal(size=(rows, TEACHER_HIDDEN)).astype(np.float32) for _ in range(teachers))
    return LabelledRows(encoded, logits.astype(np.float32), pooled if features else None)


def _with_flips(rows: LabelledRows, share: float, generator: np.random.Generator) -> LabelledRows:
    flipped = generator.random(len(rows)) < share
    labels = np.where(flipped, (rows.encoded.labels + 1) % CLASSES, rows.encoded.labels)
    return replace(rows, encoded=replace(rows.encoded, labels=labels, flipped=flipped))


def _with_needs(rows: LabelledRows, wanted: TermNeeds, generator: np.random.Generator) -> LabelledRows:
    """The rows with random teacher outputs and parts, as far as loss terms want them."""
    n, teachers = len(rows), len(rows.teacher_logits)

    def made(name: str) -> CachedRows:
        shapes = {LAYERS: (n, TEACHER_LAYERS, TEACHER_HIDDEN), PARTS: (n, NUMBER_OF_PARTS, CLASSES)}
        draws = parse_draws(name)
        shape = shapes[name] if draws is None else (n, draws[1], CLASSES)
        return CachedRows(generator.normal(size=shape).astype(np.float32), np.arange(n))

    outputs = {name: tuple(made(name) for _ in range(teachers)) for name in wanted.teacher_outputs if name != FEATURES}
    whole = rows.encoded
    parts = [replace(whole, tokens=generator.permutation(whole.tokens)) for _ in range(NUMBER_OF_PARTS * wanted.parts)]
    return replace(rows, teacher_outputs=outputs, parts=tuple(parts))


def _view(rows: LabelledRows) -> RoleView:
    return RoleView(
        ids=torch.from_numpy(rows.encoded.ids),
        labels=torch.from_numpy(rows.encoded.labels),
        teacher_logits=torch.from_numpy(rows.teacher_logits),
    )
