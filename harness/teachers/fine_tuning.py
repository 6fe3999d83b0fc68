"""Teachers: fine-tuned once per (task rows, model, recipe, seed), or taken as they are, and their outputs on every row, in the
cache.

A teacher trains on `fit`, and on rows of its own where the study gives it some (`data.teacher_rows`), and is selected on
`select`, so that `meta` stays held out for both teacher and student.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from harness.checksums import check, seal, sealed_folder
from harness.data.encode import Encoded, encode
from harness.data.labelled_rows import LabelledRows
from harness.data.roles import load_report_rows, load_teacher_rows, load_training_rows
from harness.data.rows import Rows
from harness.data.teacher_outputs import teacher_folder
from harness.digest import digest
from harness.hub import pin
from harness.models.build import count_parameters, hidden_size, load_tokenizer, tokenizer_digest
from harness.models.evaluate import predict, resolve_precision
from harness.models.own_head import build_classifier, fine_tuned_labels
from harness.ranks import Single
from harness.records import Score, Seeds
from harness.seeds import derive_seed
from harness.study.schema import TeacherSpec
from harness.study.section import Section
from harness.study.tasks import TaskSpec, task_metrics
from harness.teachers.layer_outputs import cached_output
from harness.teachers.progress import ProgressFile
from harness.training.device import device_for
from harness.training.loop import Training, steps_per_epoch
from harness.whole_folder import scratch_beside
from strategies.base import Context, Needs, Normalisation, RoleView, Settings, Setup, Strategy, Weights

REPORT = "report_logits.npz"
"""In a teacher's folder: report split -> logits [rows, classes] of its rows in their order."""


class TeacherJob(Section):
    """One teacher to be made, as plain data."""

    task: TaskSpec
    teacher: TeacherSpec
    data_digest: str
    source_digest: str
    """Digest of the pretrained weights (`harness.models.sources`)."""
    max_length: int
    outputs: tuple[str, ...] = ()
    """What to cache beside the logits (`harness.data.output_names`): some strategy or loss term of the study wants it."""
    cpus: float = 1
    gpus: float = 0
    hub_commits: dict[str, str] = {}
    micro_batches: int = 1
    """Batches are passed in so many parts from the start: what was there before has not fitted into memory."""

    @property
    def digest(self) -> str:
        content = self.identity()
        for name in ("outputs", "cpus", "gpus", "hub_commits", "micro_batches"):
            content.pop(name)
        content["task"].pop("files", None)
        # what it is called, where it lies and what its scores are used for is not what it is
        for name in ("name", "model", "fine_tuned", "outputs", "reference"):
            content["teacher"].pop(name, None)
        for name in ("fine_tuned", "outputs"):
            if getattr(self.teacher, name) is not None:
                content["teacher"]["trained_elsewhere"] = name
        return digest(content)


def make_teacher(job: TeacherJob, cache: Path) -> str:
    """Fine-tune the teacher, unless it is fine-tuned already, and cache its outputs, unless that is done; returns its digest.

    Safe under races: a folder appears whole or not at all, and the first one wins.
    """
    folder = teacher_folder(cache, job.digest)
    if is_made(job, cache):
        return job.digest
    if not folder.exists():
        with sealed_folder(folder) as unfinished:
            _make(job, cache, unfinished, None)
    if not is_made(job, cache):  # made by someone who wanted less of it
        with scratch_beside(folder) as scratch:
            _make(job, cache, scratch, folder)
            for file in (*scratch.glob("*.np[yz]"), seal(scratch)):
                file.replace(folder / file.name)
    return job.digest


def is_made(job: TeacherJob, cache: Path) -> bool:
    """Whether the cache holds the teacher and all the outputs that the job asks for."""
    folder = teacher_folder(cache, job.digest)
    return all(
        (folder / name).exists() for name in ("teacher.json", REPORT, *(f"train_{output}.npy" for output in job.outputs))
    )


def _make(job: TeacherJob, cache: Path, target: Path, finished: Path | None) -> None:
    started = time.perf_counter()
    pin(job.hub_commits)
    device = device_for(job.gpus)
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(job.cpus)))
    rows = load_training_rows(cache, job.data_digest)
    source = job.teacher.checkpoint(job.task.name)
    tokenizer = load_tokenizer(source, rows.texts(), cache)
    name = tokenizer_digest(tokenizer)

    def encoded(part: Rows, role: str | None = None) -> Encoded:
        return encode(part, tokenizer, job.max_length, cache, name, job.data_digest, role or type(part).role)

    seed = derive_seed(job.teacher.seed, job.task.name, "teacher")
    labels = None
    if job.teacher.fine_tuned is not None:
        labels = fine_tuned_labels(source, job.task.labels, job.teacher.labels.get(job.task.name))
    model = build_classifier(source, job.task.labels, seed, len(tokenizer), labels, tokenizer)
    if finished is not None:
        check(finished, ["model.safetensors"])
        load_model(model, finished / "model.safetensors")
    model.to(device)
    if finished is None and labels is not None:
        precision, epochs = resolve_precision(job.teacher.training.precision, device), []
    elif finished is None:
        training = _training(job, model, encoded(load_teacher_rows(cache, job.data_digest)), encoded(rows.select), seed)
        told = ProgressFile(target, job.teacher.training.epochs, training.total_steps)
        training.run(on_step=told)
        told.close()
        precision = training.precision
        epochs = [record.model_dump() for record in training.progress.records]
    else:  # fine-tuned before, for a study that wanted less of it
        precision = json.loads((finished / "teacher.json").read_text("utf-8"))["precision"]

    roles = (rows.fit, rows.meta, rows.select)
    parts = [encoded(part) for part in roles]
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    for output in job.outputs:
        if finished is None or not (finished / f"train_{output}.npy").exists():
            np.save(target / f"train_{output}.npy", cached_output(output, model, roles, encoded, precision, seed)[order])
    report_rows = load_report_rows(cache, job.data_digest)
    said: dict[str, Any] = {}  # logits [rows, classes]; mypy takes what is passed on for `allow_pickle`
    if finished is None or not (finished / REPORT).exists():
        for split, part in report_rows.items():
            said[split] = predict(model, encoded(part, split), np.arange(len(part)), precision).logits.numpy()
        np.savez(target / REPORT, **said)
    if finished is not None:
        return
    np.save(target / "train_ids.npy", ids[order])
    logits = [predict(model, part, np.arange(len(part.ids)), precision).logits.numpy() for part in parts]
    np.save(target / "train_logits.npy", np.concatenate(logits)[order])
    report = {part.role: score_logits(job.task, part, own) for part, own in zip(roles, logits, strict=True)}
    report |= {split: score_logits(job.task, part, said[split]) for split, part in report_rows.items()}
    save_model(model.cpu(), str(target / "model.safetensors"))  # a tensor that modules share is written once
    about = {
        "job": job.model_dump(mode="json"),
        "report": {split: score.model_dump() for split, score in report.items()},
        "epochs": epochs,
        "precision": precision,
        "parameters": count_parameters(model),
        "hidden_size": hidden_size(model),
        "seconds": time.perf_counter() - started,
    }
    file = target / "teacher.json"
    file.write_text(json.dumps(about, indent=1), "utf-8")
    with file.open() as handle:
        os.fsync(handle.fileno())


def score_logits(task: TaskSpec, rows: Rows, logits: np.ndarray) -> Score:
    """The task's metrics of logits [rows, classes]."""
    return Score(rows=len(rows), metrics=task_metrics(task, rows.labels, logits.argmax(-1)))


def _training(job: TeacherJob, model: nn.Module, fit: Encoded, select: Encoded, seed: int) -> Training:
    classes = len(job.task.labels)
    no_teacher = np.zeros((0, len(fit.ids), classes), np.float32)
    seeds = Seeds(student=seed, order=derive_seed(seed, "order"), dropout=derive_seed(seed, "dropout"), strategy=0)
    setup = Setup(
        classes=classes,
        teachers=(),
        epochs=job.teacher.training.epochs,
        steps_per_epoch=steps_per_epoch(len(fit.ids), job.teacher.training.batch_size),
        temperature=1.0,
        fit=RoleView(torch.from_numpy(fit.ids), torch.from_numpy(fit.labels), torch.from_numpy(no_teacher)),
        meta=None,
        student_hidden_size=hidden_size(model),
        teacher_hidden_sizes=(),
        seed=0,
        device=next(model.parameters()).device,
    )
    return Training(
        model,
        _LabelsOnly(Settings(), setup),
        _LabelsOnly.needs(Settings()),
        LabelledRows(fit, no_teacher),
        None,
        select,
        job.teacher.training,
        seeds,
        job.task.metrics,
        job.task.headline_metric,
        Single(),
        micro_batches=job.micro_batches,
    )


def in_smaller_parts(job: TeacherJob) -> TeacherJob:
    """The job after a process of it was killed for memory: in a process that lives, the training does that by itself."""
    parts = min(2 * job.micro_batches, job.teacher.training.batch_size)
    return job.model_copy(update={"micro_batches": parts})


class _LabelsOnly(Strategy[Settings]):
    """What a teacher learns from. Not registered: it is no student's strategy."""

    name = "labels_only"
    family = "teacher"
    summary = "Cross-entropy alone"
    paper = "convention"
    sample_wise = False
    normalisation = Normalisation.CONVEX

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return Needs(terms=("ce",), teachers=(0, 0))

    def weights(self, context: Context) -> Weights:
        return {"ce": 1.0}
