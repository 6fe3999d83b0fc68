"""A study small enough to train in a test, on the real components."""

from __future__ import annotations

import shutil
from functools import cache as once
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from harness.digest import digest
from harness.plan.plan import Plan, make_plan, trial_spec
from harness.plan.prepared import PreparedTask
from harness.records import TrialSpec
from harness.study.schema import Study
from harness.teachers.prepare import prepare
from harness.watching.console import Console

TEACHER = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
STUDENT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}

VARIED = {"initializer_range": 0.3}
"""From such weights pooled vectors differ between rows, as those of a pretrained model do; from the usual ones hardly."""


def tiny_study(**changes: Any) -> Study:
    """Generated SST-2, a two-layer teacher, a one-layer student without dropout, two short epochs; on a GPU if there is one."""
    content: dict[str, Any] = {
        "name": "tiny",
        "tasks": ["sst2"],
        "strategies": ["fixed_alpha"],
        "data": {"source": "generated", "generated": {"train_rows": 160, "report_rows": 40, "flipped": 0.2}, "max_length": 32},
        "models": {
            "student": {"config": STUDENT, "dropout": 0.0},
            "teachers": [{"config": TEACHER, "training": {"epochs": 1, "learning_rate": 1e-3}}],
        },
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "meta_batch_size": 8},
        "search": {"trials": 1, "repeats": 1},
    }
    inline = {"engine": "inline", "gpus_per_worker": int(torch.cuda.is_available())}
    resources = {"checkpoint_seconds": 0, **changes.pop("resources", inline)}
    return Study.model_validate({**content, "resources": resources, **changes})


def prepared_plan(study: Study, cache: Path) -> tuple[Plan, dict[str, PreparedTask]]:
    plan = make_plan(study, Path.cwd())
    return plan, prepare(plan, cache, Console(quiet=True))


def default_specs(study: Study, cache: Path) -> list[TrialSpec]:
    """The default trial of every cell, ready to train. What a study of the same data and models has prepared is copied."""
    made_from = study.model_dump(include={"tasks", "data", "data_per_task", "models"})
    held = Path(_held().name) / digest(made_from)
    if held.exists():
        shutil.copytree(held, cache, dirs_exist_ok=True)
    plan, prepared = prepared_plan(study, cache)
    for kind in ("data", "teachers", "tokenizers", "tokens"):
        shutil.copytree(cache / kind, held / kind, dirs_exist_ok=True)
    return [trial_spec(plan, cell, 0, {}, prepared) for cell in plan.cells]


@once
def _held() -> TemporaryDirectory[str]:
    """Until this process ends."""
    return TemporaryDirectory()
