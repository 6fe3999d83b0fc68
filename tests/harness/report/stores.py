"""Stores as a study leaves them, with planted accuracies: to develop and test the report against."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from scipy.stats import norm

from harness.records import (
    CostRecord,
    EpochRecord,
    ErrorRecord,
    Score,
    Seeds,
    TermWeights,
    TrialRecord,
    TrialSpec,
    teacher_name,
)
from harness.stats.paired import point_scores
from harness.store.store import Store
from harness.study.data import DataSpec
from harness.study.resources import TaskResources
from harness.study.schema import ModelSpec, TeacherSpec, TrainingSpec
from harness.study.tasks import TaskSpec

TASKS: dict[str, tuple[list[str], list[str], float]] = {
    "cola": (["unacceptable", "acceptable"], ["matthews"], 0.80),
    "sst2": (["negative", "positive"], ["accuracy"], 0.86),
    "mrpc": (["no", "yes"], ["f1", "accuracy"], 0.80),
    "qqp": (["no", "yes"], ["accuracy", "f1"], 0.84),
    "mnli": (["entailment", "neutral", "contradiction"], ["accuracy"], 0.72),
    "qnli": (["entailment", "not_entailment"], ["accuracy"], 0.80),
    "rte": (["entailment", "not_entailment"], ["accuracy"], 0.64),
}
SEVEN = ("ce_only", "kd_only", "fixed_alpha", "annealed_alpha", "random_weights", "wsl", "rw_kd")
THIRTY = (
    *SEVEN, "shuffled(rw_kd)", "batch_mean(rw_kd)", "shuffled(wsl)", "batch_mean(wsl)", "uncertainty_weighting", "gradnorm",
    "dynamic_weight_average", "focal_distillation", "entropy_weighted_kd", "confidence_weighted_kd", "curriculum_temperature",
    "decoupled_kd", "logit_standardisation", "meta_weight_net", "learning_to_reweight", "rw_kd_per_sample", "rl_kd", "ca_mkd",
    "mgda", "pcgrad", "self_paced", "annealing_kd", "teacher_correctness_gate",
)  # fmt: skip
GAIN = {"ce_only": -0.03, "kd_only": -0.005, "random_weights": -0.01, "annealed_alpha": 0.003, "wsl": 0.008, "rw_kd": 0.02}
SEVERAL_TEACHERS = {"rl_kd": (0.3, 0.15, 0.05), "ca_mkd": (0.17, 0.16, 0.17)}
LEARNED = {"rw_kd", "shuffled(rw_kd)", "batch_mean(rw_kd)", "meta_weight_net", "learning_to_reweight", "rw_kd_per_sample"}


@dataclass(frozen=True)
class Planted:
    """What to build."""

    tasks: tuple[str, ...] = tuple(TASKS)
    strategies: tuple[str, ...] = SEVEN
    repeats: int = 2
    trials: int = 3
    rows: int = 200
    repeat: str = "search"
    flipped: float = 0.0
    failed: frozenset[tuple[str, str, int]] = frozenset()
    """(task, label, repeat) whose trials all fail."""
    missing: frozenset[tuple[str, str, int]] = frozenset()
    """(task, label, repeat) that was planned and not run."""
    teachers_kept: bool = False
    """Whether the store keeps what teachers said of the validation split."""
    gains: dict[str, float] = field(default_factory=lambda: dict(GAIN))


def build_store(path: Path, planted: Planted) -> Store:
    """Write a whole store."""
    with patch("os.fsync"):  # no test pulls the plug
        return _build_store(path, planted)


def _build_store(path: Path, planted: Planted) -> Store:
    store = Store(path)
    cells = []
    for task in planted.tasks:
        for label in planted.strategies:
            for repeat in range(planted.repeats):
                cell = {"task": task, "label": label, "strategy": label, "repeat": repeat, "trials": planted.trials}
                if planted.repeat == "search":
                    cells.append(cell | {"final_repeats": 0})
                elif repeat == 0:
                    cells.append(cell | {"final_repeats": planted.repeats})
                if (task, label, repeat) in planted.missing:
                    continue
                for record, predictions in _cell(planted, task, label, repeat):
                    store.write(record, predictions)
    for task in planted.tasks if planted.teachers_kept else ():
        for digest in ("7", "8", "9"):
            rng = np.random.default_rng([zlib.crc32(f"{task}/teacher {digest}".encode()), 1])
            labels, difficulty = _rows(planted, task, "validation")
            predicted = _predict(rng, labels, difficulty, 0.9, len(TASKS[task][0]))
            frame = _frame("validation", labels, predicted, len(TASKS[task][0]), rng)
            store.teacher_files.write(teacher_name(digest, f"c{task}"), frame)
    store.write_manifest(_manifest(planted, cells))
    return store


def make_spec(task: str, label: str, repeat: int = 0, index: int = 0, **changes: Any) -> TrialSpec:
    """A complete specification; `changes` replace fields."""
    labels, metrics, _ = TASKS[task]
    content: dict[str, Any] = {
        "study": "planted",
        "task": TaskSpec(name=task, text=["sentence"], labels=labels, metrics=metrics),
        "strategy": label,
        "label": label,
        "settings": {},
        "repeat": repeat,
        "index": index,
        "data": DataSpec(source="generated", train_rows=2000),
        "student": ModelSpec(model="package:mini/model", layers=[0, 2, 4]),
        "teachers": [TeacherSpec(model="package:mini/model")],
        "training": TrainingSpec(),
        "seeds": Seeds(student=repeat, order=repeat, dropout=repeat, strategy=repeat),
        "label_budget": "equal_labels",
        "protocol_version": "1.0",
        "resources": TaskResources(),
        "strategy_code": "c0de",
        "data_digest": "d" + task,
        "student_digest": "5",
        "teacher_digests": ["7"],
    }
    return TrialSpec(**{**content, **changes})


def score(task: str, labels: np.ndarray, predicted: np.ndarray) -> Score:
    """As `harness.study.tasks.compute_metrics` says, from counts: thousands are needed."""
    found = {name: float(point_scores(name, labels, predicted[None], len(TASKS[task][0]))[0]) for name in TASKS[task][1]}
    return Score(rows=len(labels), metrics=found)


def _cell(planted: Planted, task: str, label: str, repeat: int) -> list[tuple[TrialRecord, pd.DataFrame | None]]:
    made = []
    for index in range(planted.trials):
        made.append(_trial(planted, task, label, repeat, index, "search"))
    if planted.repeat == "winner":
        if repeat > 0:
            made = []
        made.append(_trial(planted, task, label, repeat, 0, "final"))
    return made


def _trial(
    planted: Planted, task: str, label: str, repeat: int, index: int, purpose: str
) -> tuple[TrialRecord, pd.DataFrame | None]:
    rng = np.random.default_rng([zlib.crc32(f"{task}/{label}/{repeat}/{index}/{purpose}".encode()), 1])
    settings, training = _values(rng, label, index)
    spec = make_spec(task, label, repeat, index, settings=settings, training=training, purpose=purpose)
    if planted.repeat == "winner":
        spec = spec.model_copy(update={"purpose": purpose})
    if label in SEVERAL_TEACHERS:
        several = [spec.teachers[0].model_copy(update={"name": name}) for name in ("first", "second", "third")]
        spec = spec.model_copy(update={"teachers": several, "teacher_digests": ["7", "8", "9"]})
    splits = {
        s: _rows(planted, task, s) for s in (("validation", "validation_mismatched") if task == "mnli" else ("validation",))
    }
    majority = {s: score(task, y, np.full_like(y, np.bincount(y).argmax())) for s, (y, _) in splits.items()}
    base = {
        "key": spec.key,
        "spec": spec,
        "majority": majority,
        "student_parameters": 10_000_000,
        "teacher_parameters": [22_000_000],
        "finished_at": f"2025-03-0{repeat + 1}T10:{index:02d}:00+00:00",
        "environment": {"python": "3.11", "torch": "2.7"},
    }
    if (task, label, repeat) in planted.failed:
        error = ErrorRecord(
            kind="diverged",
            type="DivergedError",
            message=f"loss of {label} is nan at step 17 <script>alert(1)</script>",
            traceback="Traceback (most recent call last):\n  ...",
        )
        return TrialRecord(status="failed", objective=None, error=error, **base), None
    accuracy = TASKS[task][2] + planted.gains.get(label, 0.0) - 0.006 * index * (index % 2) + rng.normal(0, 0.004)
    frames, scores, teacher = [], {}, {}
    for split, (labels, difficulty) in splits.items():
        predicted = _predict(rng, labels, difficulty, accuracy, len(TASKS[task][0]))
        scores[split] = score(task, labels, predicted)
        teacher_rng = np.random.default_rng([zlib.crc32(task.encode()), 2])
        teacher[split] = score(
            task, labels, _predict(teacher_rng, labels, difficulty, TASKS[task][2] + 0.06, len(TASKS[task][0]))
        )
        frames.append(_frame(split, labels, predicted, len(TASKS[task][0]), rng))
    record = TrialRecord(
        status="ok",
        objective=min(1.0, accuracy + rng.normal(0, 0.004)),
        best_epoch=2,
        report=scores,
        teacher_report=[teacher],
        teacher_contents=[f"c{task}"] * len(spec.teachers) if planted.teachers_kept else [],
        epochs=_epochs(planted, label, settings, accuracy),
        cost=_cost(label, task, rng),
        **base,
    )
    return record, pd.concat(frames, ignore_index=True)


def _rows(planted: Planted, task: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([zlib.crc32(f"{task}/{split}".encode()), 3])
    classes = len(TASKS[task][0])
    share = np.array([0.4, 0.6]) if classes == 2 else np.full(classes, 1 / classes)
    return rng.choice(classes, planted.rows, p=share).astype(np.int64), rng.normal(size=planted.rows)


def _predict(rng: np.random.Generator, labels: np.ndarray, difficulty: np.ndarray, accuracy: float, classes: int) -> np.ndarray:
    latent = 0.85 * difficulty + np.sqrt(1 - 0.85**2) * rng.normal(size=len(labels))
    wrong = latent > norm.ppf(accuracy)
    return np.where(wrong, (labels + rng.integers(1, classes, len(labels))) % classes, labels)


def _frame(split: str, labels: np.ndarray, predicted: np.ndarray, classes: int, rng: np.random.Generator) -> pd.DataFrame:
    probabilities = rng.dirichlet(np.ones(classes), len(labels))
    probabilities[np.arange(len(labels)), predicted] += 1
    probabilities /= probabilities.sum(1, keepdims=True)
    frame = pd.DataFrame({"split": split, "id": np.arange(len(labels)), "label": labels, "predicted": predicted})
    for k in range(classes):
        frame[f"p{k}"] = probabilities[:, k].astype("float32")
    return frame


def _values(rng: np.random.Generator, label: str, index: int) -> tuple[dict[str, Any], TrainingSpec]:
    settings: dict[str, Any] = {}
    if label in ("fixed_alpha", "annealed_alpha"):
        settings = {"alpha": 0.5 if index == 0 else float(np.round(rng.uniform(0, 1), 3))}
    if label in LEARNED:
        settings = {
            "meta_learner": "network",
            "hidden_size": 64 if index == 0 else int(rng.choice([16, 64, 128])),
            "meta_learning_rate": 1e-3 if index == 0 else float(10 ** rng.uniform(-4, -2)),
        }
    if index == 0:
        return settings, TrainingSpec()
    training = TrainingSpec(learning_rate=float(10 ** rng.uniform(-5, -3.7)), temperature=float(np.round(rng.uniform(1, 8), 2)))
    return settings, training


def _cost(label: str, task: str, rng: np.random.Generator) -> CostRecord:
    factor = 2.6 if label in LEARNED else 1.0 + (zlib.crc32(label.encode()) % 40) / 100 * (label not in SEVEN)
    passes = int(6000 * factor)
    seconds = 40.0 * factor * (0.5 + zlib.crc32(task.encode()) % 7) * rng.uniform(0.97, 1.03)
    return CostRecord(
        student_forward=passes,
        student_backward=passes,
        teacher_forward=0,
        train_seconds=seconds,
        total_seconds=seconds * 1.1 + 3,
        peak_memory_bytes=int(8e8 * (1 + 0.2 * factor)),
        device="cpu",
        precision="fp32",
    )


def _epochs(planted: Planted, label: str, settings: dict[str, Any], accuracy: float, epochs: int = 3) -> list[EpochRecord]:
    made = []
    learned = label in LEARNED or label in ("wsl", "focal_distillation", "entropy_weighted_kd")
    for epoch in range(epochs):
        centre = settings.get("alpha", 0.5)
        centre = 1 - centre * (epoch + 1) / epochs if label == "annealed_alpha" else centre
        centre = {"ce_only": 1.0, "kd_only": 0.0}.get(label, centre)
        spread = 0.12 * (epoch + 1) if learned else (0.3 if label == "random_weights" else 0.0)
        ce = np.clip(centre + spread * np.array([-1, -0.6, -0.25, 0, 0.25, 0.6, 1]), 0, 1)
        found = 0.5 + (0.1 * (epoch + 1) if learned else 0.0)
        weights = {
            "ce": TermWeights(
                mean=float(ce.mean()),
                quantiles=[float(v) for v in ce],
                teacher_right=float(ce.mean() + 0.2 * spread),
                teacher_wrong=float(ce.mean() - 0.6 * spread),
                flipped_auroc=found if planted.flipped else None,
            ),
            "kd": TermWeights(
                mean=float(1 - ce.mean()),
                quantiles=[float(v) for v in 1 - ce[::-1]],
                teacher_right=float(1 - ce.mean() - 0.2 * spread),
                teacher_wrong=float(1 - ce.mean() + 0.6 * spread),
                flipped_auroc=1 - found if planted.flipped else None,
                by_row=list(SEVERAL_TEACHERS[label]) if label in SEVERAL_TEACHERS else None,
            ),
        }
        select = dict.fromkeys(("accuracy", "f1", "matthews"), accuracy - 0.05 / (epoch + 1))
        made.append(
            EpochRecord(
                epoch=epoch,
                train_loss=1 / (epoch + 1),
                terms={"ce": 0.5, "kd": 0.4},
                select=select,
                weights=weights,
                seconds=10.0,
            )
        )
    return made


def _manifest(planted: Planted, cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "protocol_version": "1.0",
        "study": {
            "name": "planted",
            "description": "Planted accuracies.",
            "tasks": list(planted.tasks),
            "strategies": [{"name": name} for name in planted.strategies],
            "data": {"source": "generated", "train_rows": 2000, "report_rows": planted.rows, "label_noise": planted.flipped},
            "models": {
                "student": {"model": "package:mini/model", "layers": [0, 2, 4]},
                "teachers": [{"name": "teacher", "model": "package:mini/model"}],
            },
            "search": {"trials": planted.trials, "repeats": planted.repeats, "repeat": planted.repeat},
            "protocol": {"version": "1.0", "label_budget": "equal_labels"},
        },
        "study_file": "studies/planted.yaml",
        "command": "python -m harness.run studies/planted.yaml",
        "digests": {task: {"fit": "a1", "meta": "b2", "select": "c3", "validation": f"{task} d4"} for task in planted.tasks},
        "rows": {task: {"fit": 1600, "meta": 200, "select": 200, "validation": planted.rows} for task in planted.tasks},
        "official_rows": {task: {"train": 67349, "validation": 872} for task in planted.tasks},
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "packages": {"torch": "2.7"},
        "started_at": "2025-03-01T09:00:00+00:00",
        "finished_at": "2025-03-02T12:00:00+00:00",
        "planned_cells": cells,
    }
