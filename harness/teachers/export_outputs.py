"""A study's teachers' outputs as files that another study takes as a teacher (`harness.data.output_files`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model

from harness.data.encode import encode
from harness.data.output_files import write_outputs
from harness.data.roles import load_report_rows, load_training_rows
from harness.data.teacher_outputs import TeacherOutputs, teacher_folder
from harness.errors import ModelError
from harness.models.build import load_tokenizer, tokenizer_digest
from harness.models.evaluate import predict
from harness.models.own_head import build_classifier
from harness.plan.plan import Plan
from harness.plan.prepared import PreparedTask
from harness.study.schema import TeacherSpec
from harness.study.tasks import TaskSpec

Files = dict[str, dict[str, dict[str, str]]]
"""Teacher -> task -> split -> file, as a study's `outputs` name them."""


def export_outputs(plan: Plan, prepared: Mapping[str, PreparedTask], cache: Path, folder: Path) -> Files:
    """Write `<folder>/<teacher>/<task>/<split>.parquet`: logits of the rows that the study uses, by id.

    Names in the answer are relative to `folder`. Teachers of stored outputs are left out: they are files already. Raises
    ModelError for a teacher that could not be made, before anything is written.
    """
    for task in plan.tasks:
        for name, error in prepared[task.name].teacher_errors.items():
            raise ModelError(f"teacher {name!r} of {task.name} could not be made: {error.type}: {error.message}")
    found: Files = {}
    for teacher in plan.used_teachers:
        for task in plan.tasks:
            if teacher.outputs is None:
                max_length = plan.study.data_for(task.name).max_length
                files = _export(teacher, task, prepared[task.name], max_length, cache, folder)
                found.setdefault(teacher.name, {})[task.name] = files
    return found


def _export(
    teacher: TeacherSpec, task: TaskSpec, ready: PreparedTask, max_length: int, cache: Path, folder: Path
) -> dict[str, str]:
    digest = ready.teacher_digests[teacher.name]
    outputs = TeacherOutputs.load(cache, digest)
    arrays = {"train": (outputs.ids, outputs.all_logits)}
    arrays |= _report_logits(
        teacher.for_task(task.name), task, ready.data_digest, max_length, cache, teacher_folder(cache, digest)
    )
    files = {}
    for split, (ids, logits) in arrays.items():
        files[split] = f"{teacher.name}/{task.name}/{split}.parquet"
        write_outputs(folder / files[split], ids, logits, task.labels)
    return files


def _report_logits(
    teacher: TeacherSpec, task: TaskSpec, data_digest: str, max_length: int, cache: Path, made: Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Report split -> ids and logits, as the teacher was scored on; the cache holds those of the training rows alone."""
    source = teacher.checkpoint(task.name)
    tokenizer = load_tokenizer(source, load_training_rows(cache, data_digest).texts(), cache)
    model = build_classifier(source, task.labels, 0, len(tokenizer), tokenizer=tokenizer)
    load_model(model, made / "model.safetensors")
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    precision = json.loads((made / "teacher.json").read_text("utf-8"))["precision"]
    found = {}
    for split, rows in load_report_rows(cache, data_digest).items():
        part = encode(rows, tokenizer, max_length, cache, tokenizer_digest(tokenizer), data_digest, split)
        found[split] = (rows.ids, predict(model, part, np.arange(len(rows)), precision).logits.numpy())
    return found
