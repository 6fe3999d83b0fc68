"""A teacher that the harness fine-tuned, as somebody else's: a checkpoint folder, and files of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from harness.data.roles import load_training_rows
from harness.data.teacher_outputs import TeacherOutputs, teacher_folder
from harness.models.build import build_model, load_tokenizer
from harness.plan.plan import Plan, make_plan, trial_spec
from harness.plan.prepared import PreparedTask
from harness.study.schema import ModelSpec, Study
from harness.teachers.prepare import prepare
from harness.training.trial import train_trial
from harness.watching.console import Console
from tests.harness.tiny import TEACHER

TASK = "relation"
WORDS = {"entailment": "therefore", "neutral": "perhaps", "contradiction": "never"}
LABELS = list(WORDS)
STRATEGIES = ["fixed_alpha", "annealing_kd"]
"""The second regresses the logits themselves."""


def easy_task(folder: Path) -> dict[str, Any]:
    """Three classes that one word of a text tells apart: a small teacher learns them."""
    for split, rows in (("train", 160), ("validation", 40)):
        labels = [LABELS[k % 3] for k in range(rows)]
        texts = [f"the {['cat', 'dog', 'tree'][k % 2]} {WORDS[label]} ran {k % 7}" for k, label in enumerate(labels)]
        pd.DataFrame({"text": texts, "label": labels}).to_csv(folder / f"{split}.csv", index_label="idx")
    files = {split: str(folder / f"{split}.csv") for split in ("train", "validation")}
    return {"name": TASK, "text": ["text"], "labels": LABELS, "files": files}


def save_checkpoint(
    plan: Plan, prepared: Mapping[str, PreparedTask], cache: Path, folder: Path, order: Sequence[int], names: Sequence[str]
) -> Path:
    """The first task's first teacher as a checkpoint whose output k is the class `order[k]` and is called `names[k]`."""
    ready, teacher = prepared[plan.tasks[0].name], plan.study.models.teachers[0]
    tokenizer = load_tokenizer(teacher, load_training_rows(cache, ready.data_digest).texts(), cache)
    model: Any = build_model(teacher, len(order), 0, len(tokenizer))
    state = load_file(teacher_folder(cache, ready.teacher_digests[teacher.name]) / "model.safetensors")
    for name in [name for name in state if name.startswith("classifier.") and len(state[name]) == len(order)]:
        state[name] = state[name][list(order)].clone()
    model.load_state_dict(state)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: k for k, name in enumerate(names)}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_outputs(
    plan: Plan, prepared: Mapping[str, PreparedTask], cache: Path, file: Path, probabilities: bool = False
) -> Path:
    """The same teacher's outputs on the training rows in use: rows and columns in another order than the study's."""
    task = plan.tasks[0]
    outputs = TeacherOutputs.load(cache, prepared[task.name].teacher_digests["teacher"])
    values = torch.from_numpy(np.array(outputs.all_logits)).double()
    values = values.softmax(-1) if probabilities else values
    columns = {label: values[:, k].numpy() for k, label in reversed(list(enumerate(task.labels)))}
    frame = pd.DataFrame({**columns, "idx": outputs.ids})
    frame.sample(frac=1, random_state=0).to_parquet(file, index=False)
    return file


def with_teachers(study: Study, *teachers: dict[str, Any], **changes: Any) -> Study:
    """The study with these teachers in the place of its own."""
    content = study.model_dump(mode="json", exclude_unset=True)
    models = {**content["models"], "teachers": list(teachers)}
    return Study.model_validate({**content, "models": models, **changes})


def students(study: Study, cache: Path) -> list[Any]:
    """Of every cell's default trial: objective, scores and predictions."""
    plan = make_plan(study, Path.cwd())
    prepared = prepare(plan, cache, Console(quiet=True))
    found = []
    for cell in plan.cells:
        outcome = train_trial(trial_spec(plan, cell, 0, {}, prepared), cache)
        assert outcome.predictions is not None
        found.append((outcome.record.objective, outcome.record.report, outcome.predictions))
    return found


def largest_difference(ours: list[Any], theirs: list[Any]) -> float:
    """Of any probability that students of two studies give."""
    return max(
        float(np.abs(a.filter(regex=r"^p\d") - b.filter(regex=r"^p\d")).to_numpy().max())
        for (_, _, a), (_, _, b) in zip(ours, theirs, strict=True)
    )


def save_random_checkpoint(folder: Path, names: Sequence[str]) -> Path:
    """A classifier from random weights whose outputs are called so."""
    spec = ModelSpec(config=TEACHER)
    tokenizer = load_tokenizer(spec, ["the cat ran", *WORDS.values()], folder.parent)
    model: Any = build_model(spec, len(names), 0, len(tokenizer))
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: k for k, name in enumerate(names)}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
