"""One trial: a student trained with one strategy, and what came of it."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from harness.data.cached_outputs import FEATURES
from harness.data.encode import Encoded, encode
from harness.data.labelled_rows import LabelledRows
from harness.data.parts import split_parts
from harness.data.roles import load_report_rows, load_training_rows
from harness.data.rows import FitAndMetaRows, FitRows, MetaRows, Rows, TrainingRows, join_rows
from harness.data.teacher_outputs import TeacherOutputs
from harness.data.word_drop import WordDrop
from harness.loss_terms.base import TermNeeds, TermSetup
from harness.loss_terms.bound import LossTerms
from harness.loss_terms.registry import needs_of_terms
from harness.models.build import (
    build_model,
    count_parameters,
    hidden_size,
    load_tokenizer,
    number_of_layers,
    tokenizer_digest,
)
from harness.models.evaluate import predict
from harness.ranks import Ranks, Single
from harness.records import Score, TrialRecord, TrialSpec
from harness.study.tasks import TaskSpec, task_metrics
from harness.training.hooks import EpochHook, StoppedEarly
from harness.training.loop import Training, steps_per_epoch
from harness.training.majority import majority_scores
from harness.training.peak_memory import peak_bytes, reset_peak
from strategies import load_plugin, resolve
from strategies.base import RoleView, Setup

DETERMINING_PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class TrialOutcome:
    record: TrialRecord
    predictions: pd.DataFrame | None
    """A row for each report example: split, id, label, predicted, and the probabilities p0, p1, ...; None where the trial was
    stopped early."""


@dataclass(frozen=True)
class MadeTraining:
    training: Training
    student_parameters: int
    encoder: _Encoder
    rows: TrainingRows
    teachers: list[TeacherOutputs]


def train_trial(
    spec: TrialSpec,
    cache: Path,
    ranks: Ranks | None = None,
    on_epoch: EpochHook | None = None,
    resume_from: Path | None = None,
    micro_batches: int = 1,
) -> TrialOutcome:
    """Train, select and score one student. `harness.teachers.prepare` has put its rows and teacher outputs into `cache`.

    Every rank calls this; all get the same record. `on_epoch` may raise StoppedEarly, on all ranks; the record says so then.
    `micro_batches`: see `Training`. Raises DivergedError, OutOfMemoryError, CheckpointError where `resume_from` is damaged, or
    whatever a strategy raises.
    """
    started = time.perf_counter()
    ranks = ranks or Single()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(spec.resources.cpus_per_worker)))
    reset_peak(device)
    made = make_training(spec, cache, ranks, device, micro_batches)
    training, teachers = made.training, made.teachers
    try:
        progress = training.run(on_epoch, resume_from)
    except StoppedEarly:
        return _stopped(spec, made, time.perf_counter() - started)

    # Only now, with the student fixed, are the report rows read.
    report_rows = load_report_rows(cache, spec.data_digest)
    predictions = pd.concat(
        [
            _predictions(split, made.encoder(rows, split), training.model, training.precision)
            for split, rows in report_rows.items()
        ],
        ignore_index=True,
    )
    cost = progress.cost
    cost.peak_memory_bytes = peak_bytes(device)
    cost.total_seconds = time.perf_counter() - started
    record = TrialRecord(
        key=spec.key,
        status="ok",
        spec=spec,
        objective=progress.records[progress.best_epoch].select[spec.task.headline_metric],
        best_epoch=progress.best_epoch,
        report=score_predictions(predictions, spec.task),
        majority=majority_scores(made.rows, report_rows, spec.task),
        teacher_report=[outputs.report for outputs in teachers],
        epochs=progress.records,
        cost=cost,
        student_parameters=made.student_parameters,
        teacher_parameters=[outputs.parameters for outputs in teachers],
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment(),
    )
    return TrialOutcome(record, predictions)


def make_training(spec: TrialSpec, cache: Path, ranks: Ranks, device: torch.device, micro_batches: int = 1) -> MadeTraining:
    """The trial's training, ready to run. It has no report rows."""
    for plugin in spec.plugins:
        load_plugin(plugin)
    registered = resolve(spec.strategy)
    settings = registered.settings(spec.settings)
    needs = registered.needs(settings)

    training_rows = load_training_rows(cache, spec.data_digest)
    fit_rows, meta_rows = training_parts(training_rows, needs.needs_meta_set, spec.label_budget)
    encoder = _Encoder(spec, cache, training_rows)
    wanted = needs_of_terms(needs)
    teachers = [TeacherOutputs.load(cache, digest, wanted.teacher_outputs) for digest in spec.teacher_digests]
    fit = _labelled(fit_rows, encoder, teachers, wanted)
    if wanted.word_drop:
        fit = replace(fit, word_drop=WordDrop(fit.encoded, wanted.word_drop, spec.seeds.dropout))
    meta = None if meta_rows is None else _labelled(meta_rows, encoder, teachers, wanted)

    classes = len(spec.task.labels)
    model = build_model(spec.student, classes, spec.seeds.student, encoder.vocabulary, tokenizer=encoder.tokenizer).to(device)
    parameters = count_parameters(model)
    setup = Setup(
        classes=classes,
        teachers=tuple(teacher.name for teacher in spec.teachers),
        epochs=spec.training.epochs,
        steps_per_epoch=steps_per_epoch(len(fit), spec.training.batch_size),
        temperature=spec.training.temperature,
        fit=_role_view(fit),
        meta=None if meta is None else _role_view(meta),
        student_hidden_size=hidden_size(model),
        teacher_hidden_sizes=tuple(outputs.hidden_size for outputs in teachers),
        seed=spec.seeds.strategy,
        device=device,
    )
    training = Training(
        model,
        registered.create(settings, setup),
        needs,
        fit,
        meta,
        encoder(training_rows.select),
        spec.training,
        spec.seeds,
        spec.task.metrics,
        spec.task.headline_metric,
        ranks,
        temperature=spec.training.temperature,
        meta_batch_size=spec.training.meta_batch_size,
        micro_batches=micro_batches,
        terms=LossTerms(
            needs,
            TermSetup(
                classes=classes,
                student_layers=number_of_layers(model),
                student_hidden_size=hidden_size(model),
                vocabulary=len(model.get_input_embeddings().weight),
                fit=fit,
                seed=spec.seeds.strategy,
                device=device,
            ),
        ),
    )
    return MadeTraining(training, parameters, encoder, training_rows, teachers)


def _stopped(spec: TrialSpec, made: MadeTraining, seconds: float) -> TrialOutcome:
    """The report rows stay unread: a stopped trial is no result."""
    training = made.training
    progress = training.progress
    progress.cost.peak_memory_bytes = peak_bytes(training.device)
    progress.cost.total_seconds = seconds
    record = TrialRecord(
        key=spec.key,
        status="stopped",
        spec=spec,
        objective=None,
        epochs=progress.records,
        cost=progress.cost,
        student_parameters=made.student_parameters,
        stopped_after_epoch=progress.epoch,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment(),
    )
    return TrialOutcome(record, None)


def training_parts(rows: TrainingRows, uses_meta: bool, label_budget: str) -> tuple[FitRows, MetaRows | None]:
    """The rows a strategy trains on, and its meta set, by the protocol's label budget.

    equal_labels: who needs no meta set trains on fit + meta. equal_fit: nobody trains on meta.
    """
    if uses_meta:
        return rows.fit, rows.meta
    if label_budget == "equal_labels":
        return join_rows(FitAndMetaRows, rows.fit, rows.meta), None
    return rows.fit, None


def score_predictions(predictions: pd.DataFrame, task: TaskSpec) -> dict[str, Score]:
    """Report split -> score."""
    return {
        str(split): Score(rows=len(part), metrics=task_metrics(task, part["label"].to_numpy(), part["predicted"].to_numpy()))
        for split, part in predictions.groupby("split", sort=False)
    }


def environment() -> dict[str, str]:
    """Versions of what determines numbers."""
    versions = {name: importlib.metadata.version(name) for name in DETERMINING_PACKAGES}
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"python": platform.python_version(), **versions, "machine": platform.machine(), "accelerator": accelerator}


class _Encoder:
    """Tokenises the task's rows with the student's tokenizer, through the cache."""

    def __init__(self, spec: TrialSpec, cache: Path, training: TrainingRows) -> None:
        self.tokenizer = load_tokenizer(spec.student, training.texts(), cache)
        self._digest = tokenizer_digest(self.tokenizer)
        self._spec = spec
        self._cache = cache

    @property
    def vocabulary(self) -> int:
        return len(self.tokenizer)

    def __call__(self, rows: Rows, role: str | None = None) -> Encoded:
        name = role or type(rows).role
        return encode(rows, self.tokenizer, self._spec.data.max_length, self._cache, self._digest, self._spec.data_digest, name)


def _labelled(rows: Rows, encoder: _Encoder, teachers: Sequence[TeacherOutputs], wanted: TermNeeds) -> LabelledRows:
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


def _role_view(rows: LabelledRows) -> RoleView:
    return RoleView(
        ids=torch.from_numpy(np.asarray(rows.encoded.ids)),
        labels=torch.from_numpy(np.asarray(rows.encoded.labels)),
        teacher_logits=torch.from_numpy(rows.teacher_logits),
    )


def _predictions(split: str, encoded: Encoded, model: torch.nn.Module, precision: str) -> pd.DataFrame:
    probabilities = predict(model, encoded, np.arange(len(encoded.ids)), precision).logits.softmax(-1).numpy()
    columns: Mapping[str, object] = {
        "split": split,
        "id": encoded.ids,
        "label": encoded.labels.astype(np.int16),
        "predicted": probabilities.argmax(-1).astype(np.int16),
    }
    return pd.DataFrame({**columns, **{f"p{k}": probabilities[:, k] for k in range(probabilities.shape[1])}})
