"""From a trial's specification to the rows that it trains on: which ones, tokenised, with what the teachers say of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.data.encode import Encoded, encode
from harness.data.labelled_rows import LabelledRows
from harness.data.output_names import FEATURES
from harness.data.parts import split_parts
from harness.data.rows import FitAndMetaRows, FitRows, MetaRows, Rows, TrainingRows, join_rows
from harness.data.teacher_outputs import TeacherOutputs
from harness.loss_terms.base import TermNeeds
from harness.models.build import load_tokenizer, tokenizer_digest
from harness.models.save import save_classifier
from harness.records import TrialSpec
from strategies.base import Needs, RoleView


def training_parts(rows: TrainingRows, needs: Needs, label_budget: str) -> tuple[FitRows, MetaRows | None]:
    """The rows a strategy trains on, and its meta set, by the protocol's label budget."""
    if needs.trains_on_meta(label_budget):
        return join_rows(FitAndMetaRows, rows.fit, rows.meta), None
    return rows.fit, rows.meta if needs.needs_meta_set else None


class RowEncoder:
    """Tokenises the task's rows with the student's tokenizer, through the cache."""

    def __init__(self, spec: TrialSpec, cache: Path, training: TrainingRows) -> None:
        self.tokenizer = load_tokenizer(spec.student, training.texts(), cache)
        self._digest = tokenizer_digest(self.tokenizer)
        self._spec = spec
        self._cache = cache

    @property
    def vocabulary(self) -> int:
        return len(self.tokenizer)

    def save_with(self, model: Any, folder: Path) -> None:
        """Write the student and this tokenizer."""
        save_classifier(model, self.tokenizer, self._spec.task.labels, self._spec.data.max_length, folder)

    def __call__(self, rows: Rows, role: str | None = None) -> Encoded:
        name = role or type(rows).role
        return encode(rows, self.tokenizer, self._spec.data.max_length, self._cache, self._digest, self._spec.data_digest, name)


def labelled_rows(rows: Rows, encoder: RowEncoder, teachers: Sequence[TeacherOutputs], wanted: TermNeeds) -> LabelledRows:
    encoded = encoder(rows)
    role = type(rows).role
    has_features = FEATURES in wanted.teacher_outputs
    return LabelledRows(
        encoded,
        np.stack([teacher.logits(encoded.ids) for teacher in teachers]),
        tuple(teacher.features(encoded.ids) for teacher in teachers) if has_features else None,
        {
            name: tuple(teacher.cached(name, encoded.ids) for teacher in teachers)
            for name in wanted.teacher_outputs
            if name != FEATURES
        },
        tuple(encoder(part, f"{role}.part{k}") for k, part in enumerate(split_parts(rows))) if wanted.parts else (),
    )


def role_view(rows: LabelledRows) -> RoleView:
    return RoleView(
        ids=torch.from_numpy(np.asarray(rows.encoded.ids)),
        labels=torch.from_numpy(np.asarray(rows.encoded.labels)),
        teacher_logits=torch.from_numpy(rows.teacher_logits),
    )
