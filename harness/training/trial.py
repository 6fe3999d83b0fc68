"""One trial: a student trained with one strategy, and what came of it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch

from harness.data.encode import Encoded
from harness.data.roles import load_report_rows, load_training_rows
from harness.data.rows import TrainingRows
from harness.data.teacher_outputs import TeacherOutputs
from harness.data.word_drop import WordDrop
from harness.hub import pin
from harness.loss_terms.base import TermSetup
from harness.loss_terms.bound import LossTerms
from harness.loss_terms.registry import needs_of_terms
from harness.models.build import (
    count_parameters,
    hidden_size,
    number_of_layers,
)
from harness.models.evaluate import predict
from harness.models.own_head import build_classifier
from harness.numeric_code import numeric_code
from harness.ranks import Ranks, Single
from harness.records import Score, TrialRecord, TrialSpec
from harness.study.tasks import TaskSpec, task_metrics
from harness.training.device import device_for, processor
from harness.training.failures import ChangedCodeError
from harness.training.hooks import EpochHook, StepHook, StoppedEarly
from harness.training.loop import Training, steps_per_epoch
from harness.training.majority import majority_scores
from harness.training.peak_memory import peak_bytes, reset_peak
from harness.training.trial_rows import RowEncoder, labelled_rows, role_view, training_parts
from harness.whole_folder import whole_folder
from strategies import load_plugin, resolve
from strategies.base import Setup

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
    encoder: RowEncoder
    rows: TrainingRows
    teachers: list[TeacherOutputs]


def train_trial(
    spec: TrialSpec,
    cache: Path,
    ranks: Ranks | None = None,
    on_epoch: EpochHook | None = None,
    resume_from: Path | None = None,
    micro_batches: int = 1,
    student_folder: Path | None = None,
    on_step: StepHook | None = None,
) -> TrialOutcome:
    """Train, select and score one student. `harness.teachers.prepare` has put its rows and teacher outputs into `cache`.

    Every rank calls this; all get the same record. `on_epoch` may raise StoppedEarly, on all ranks; the record says so then.
    `micro_batches`: see `Training`. `student_folder`: where rank 0 leaves the trained student (`harness.models.save`), whole or
    not at all. Raises DivergedError, OutOfMemoryError, CheckpointError where
    `resume_from` is damaged, or whatever a strategy raises.
    """
    started = time.perf_counter()
    ranks = ranks or Single()
    device = device_for(spec.resources.gpus_per_worker)
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(spec.resources.cpus_per_worker)))
    reset_peak(device)
    made = make_training(spec, cache, ranks, device, micro_batches)
    training, teachers = made.training, made.teachers
    try:
        progress = training.run(on_epoch, resume_from, on_step)
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
    if student_folder is not None and ranks.rank == 0:
        shutil.rmtree(student_folder, ignore_errors=True)  # of an earlier try
        with whole_folder(student_folder) as unfinished:
            made.encoder.save_with(training.model, unfinished)
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
        majority=majority_scores(made.rows, {"select": made.rows.select, **report_rows}, spec.task),
        teacher_report=[outputs.report for outputs in teachers],
        teacher_contents=[outputs.content for outputs in teachers],
        epochs=progress.records,
        cost=cost,
        student_parameters=made.student_parameters,
        teacher_parameters=[outputs.parameters for outputs in teachers],
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment(training.device),
    )
    return TrialOutcome(record, predictions)


def make_training(
    spec: TrialSpec,
    cache: Path,
    ranks: Ranks,
    device: torch.device,
    micro_batches: int = 1,
    stand_ins: Mapping[str, TeacherOutputs] = MappingProxyType({}),
) -> MadeTraining:
    """The trial's training, ready to run. It has no report rows. Raises ChangedCodeError.

    `stand_ins`: teacher name -> outputs in the place of the cache's, for a training that is only measured.
    """
    if spec.harness_code not in ("", numeric_code()):
        raise ChangedCodeError(
            f"the harness that this process has loaded makes other numbers than the one that planned the trial: digest of its "
            f"code {numeric_code()}, planned {spec.harness_code}. Was a file changed while the study runs, or has this node "
            "another copy?"
        )
    pin(spec.hub_commits)
    for plugin in spec.plugins:
        load_plugin(plugin)
    registered = resolve(spec.strategy)
    if registered.code_digest != spec.strategy_code:
        raise ChangedCodeError(
            f"the strategy {spec.strategy!r} that this process has loaded ({registered.origin}) is not the one that was "
            f"planned: digest of its code {registered.code_digest}, planned {spec.strategy_code}. Was a file changed while the "
            "study runs? The same command again goes on with the file as it is then"
        )
    settings = registered.settings(spec.settings)
    needs = registered.needs(settings)

    training_rows = load_training_rows(cache, spec.data_digest)
    fit_rows, meta_rows = training_parts(training_rows, needs, spec.label_budget)
    encoder = RowEncoder(spec, cache, training_rows)
    wanted = needs_of_terms(needs)
    teachers = [
        stand_ins.get(teacher.name) or TeacherOutputs.load(cache, digest, wanted.teacher_outputs)
        for teacher, digest in zip(spec.teachers, spec.teacher_digests, strict=True)
    ]
    fit = labelled_rows(fit_rows, encoder, teachers, wanted)
    if wanted.word_drop:
        fit = replace(fit, word_drop=WordDrop(fit.encoded, wanted.word_drop, spec.seeds.dropout))
    meta = None if meta_rows is None else labelled_rows(meta_rows, encoder, teachers, wanted)

    classes = len(spec.task.labels)
    model = build_classifier(
        spec.student, spec.task.labels, spec.seeds.student, encoder.vocabulary, tokenizer=encoder.tokenizer
    ).to(device)
    parameters = count_parameters(model)
    setup = Setup(
        classes=classes,
        teachers=tuple(teacher.name for teacher in spec.teachers),
        epochs=spec.training.epochs,
        steps_per_epoch=steps_per_epoch(len(fit), spec.training.batch_size),
        temperature=spec.training.temperature,
        fit=role_view(fit),
        meta=None if meta is None else role_view(meta),
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
        graphs=spec.training.compile == "graphs",
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
        teacher_contents=[outputs.content for outputs in made.teachers],
        stopped_after_epoch=progress.epoch,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment(training.device),
    )
    return TrialOutcome(record, None)


def score_predictions(predictions: pd.DataFrame, task: TaskSpec) -> dict[str, Score]:
    """Report split -> score."""
    return {
        str(split): Score(rows=len(part), metrics=task_metrics(task, part["label"].to_numpy(), part["predicted"].to_numpy()))
        for split, part in predictions.groupby("split", sort=False)
    }


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware that determine numbers."""
    versions = {name: importlib.metadata.version(name) for name in DETERMINING_PACKAGES}
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    hardware = {"machine": platform.machine(), "processor": processor(), "accelerator": accelerator}
    return {"python": platform.python_version(), **versions, **hardware}


def _predictions(split: str, encoded: Encoded, model: torch.nn.Module, precision: str) -> pd.DataFrame:
    probabilities = predict(model, encoded, np.arange(len(encoded.ids)), precision).logits.softmax(-1).numpy()
    columns: Mapping[str, object] = {
        "split": split,
        "id": encoded.ids,
        "label": encoded.labels.astype(np.int16),
        "predicted": probabilities.argmax(-1).astype(np.int16),
    }
    return pd.DataFrame({**columns, **{f"p{k}": probabilities[:, k] for k in range(probabilities.shape[1])}})
