"""One epoch of single-teacher distillation: the harness, TextBrewer and torchdistill on the same rows, models and cores."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch.utils.data import DataLoader, Dataset

from harness.data.encode import Encoded
from harness.data.labelled_rows import LabelledRows
from harness.models.build import build_model
from harness.models.evaluate import predict
from harness.models.used_tokens import embed_all_tokens
from harness.study.schema import ModelSpec
from harness.training.weight_log import WeightLog
from tests.benchmarks.measure import median_ratio
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.setting import MINILM, STUDENT, TASKS, TEMPERATURE, Rows, glue_rows, make_training
from tests.harness.small_models import as_transformers_has_it

ROWS = {"mrpc": 480, "sst2": 960, "cola": 960}
"""Of the task's training split; the four fifths that are neither meta nor selection rows make the epoch."""
ROUNDS = 4
BATCH = 32
LENGTH = 128
TEACHER_EPOCHS = 2
RATE = 2e-4
HARNESS, BF16 = "harness", "harness, bf16"
AT_LEAST = {"mrpc": 4.0, "sst2": 6.0, "cola": 6.0}


def run(options: Options) -> Outcome:
    torch.set_num_threads(1 if options.small else 2)
    build_model(ModelSpec(model=MINILM), 2, 0, 30522)  # before the baselines are imported
    ways: dict[str, Callable[..., float]] = {HARNESS: harness_epoch, BF16: harness_epoch_bf16}
    if options.import_baseline("textbrewer"):
        ways["TextBrewer 0.2.1"] = textbrewer_epoch
    if options.baselines is not None and _import_torchdistill(options):
        ways["torchdistill 1.1.5"] = torchdistill_epoch
    found, targets = [], []
    for task in ("cola",) if options.small else TASKS:
        rows, teacher, seconds_once = with_teacher(
            glue_rows(task, 80 if options.small else ROWS[task], options.cache, LENGTH, 20 if options.small else 400),
            1 if options.small else TEACHER_EPOCHS,
        )
        taken: dict[str, list[float]] = {name: [] for name in ways}
        right: dict[str, list[np.ndarray]] = {name: [] for name in ways}
        for seed in range(1 if options.small else ROUNDS):
            for name, epoch in ways.items():
                student = build_model(STUDENT, 2, seed, rows.vocabulary)
                torch.manual_seed(seed)
                taken[name].append(epoch(student, teacher, rows))
                right[name].append(_right(student, rows))
        for name in ways:
            difference, noise = difference_of(right[name], right[HARNESS])
            row = {
                "task": task,
                "rows": len(rows.fit),
                "way": name,
                "seconds an epoch": round(statistics.median(taken[name]), 2),
                "least": round(min(taken[name]), 2),
                "times the harness's": round(median_ratio(taken[name], taken[HARNESS]), 2),
                "accuracy": round(float(np.mean(right[name])), 3),
                "minus the harness's": "" if name == HARNESS else f"{difference:+.3f} ± {noise:.3f}",
            }
            if name == HARNESS:
                row["teacher's outputs once, s"] = round(seconds_once, 2)
            elif not name.startswith(HARNESS):
                first = [other / (own + seconds_once) for other, own in zip(taken[name], taken[HARNESS], strict=True)]
                row["times the harness's first"] = round(statistics.median(first), 2)
                row["times its bf16"] = round(median_ratio(taken[name], taken[BF16]), 2)
                for own in (HARNESS, BF16):
                    times, (off, noise) = median_ratio(taken[name], taken[own]), difference_of(right[name], right[own])
                    targets.append(Target(f"{task}: {name}, times that of {own}", times, at_least=AT_LEAST[task]))
                    targets.append(Target(f"{task}: {name}, accuracy off that of {own}", abs(off), at_most=noise))
            found.append(row)
    notes = [
        "MiniLM-L6 fine-tuned on the task, to a student of three of its layers; batch 32, two threads, AdamW; CE, KD; float32, "
        "and the harness also in bf16, as studies/glue_minilm.yaml runs.",
        "TextBrewer as in its notebook for SST-2 (rows padded to 128 tokens, the teacher run in every step; its checkpoint "
        "at the epoch's end left out); torchdistill as in its GLUE configurations (DataCollatorWithPadding, random order, "
        "learning rate down to 0).",
        "The harness computes the teacher's outputs once and reads them in every epoch and trial; `times the harness's first`: "
        "with that computation counted.",
        "Accuracy after the one epoch, on report rows, mean over the rounds, a seed each; differences with their 95 % interval "
        "over rows and rounds.",
    ]
    if len(ways) == 2:
        notes.append("TextBrewer and torchdistill are not installed (--baselines).")
    return Outcome("an epoch of distillation", found, notes, targets)


def difference_of(first: list[np.ndarray], second: list[np.ndarray]) -> tuple[float, float]:
    """Difference of two accuracies, and half its 95 % interval over rows and rounds. Rounds x [rows] of 0 or 1, both.

    Rounds are few, and no two ways see the same batches or dropout: Student's t with their degrees of freedom.
    """
    each = np.asarray(first) - np.asarray(second)
    rounds, rows = each.shape
    if rounds == 1:
        return float(each.mean()), math.inf
    variance = each.mean(0).var(ddof=1) / rows + each.mean(1).var(ddof=1) / rounds
    return float(each.mean()), float(scipy.stats.t.ppf(0.975, rounds - 1) * math.sqrt(variance))


def with_teacher(rows: Rows, epochs: int) -> tuple[Rows, torch.nn.Module, float]:
    """The rows with the logits of a teacher trained on them, the teacher, and the seconds that these logits took."""
    training = make_training(rows, "ce_only", student=ModelSpec(model=MINILM), learning_rate=1e-4, epochs=epochs)
    training.run()
    teacher = training.model.eval()
    started = time.perf_counter()
    logits = predict(teacher, rows.fit.encoded, np.arange(len(rows.fit))).logits.numpy()[None]
    seconds = time.perf_counter() - started
    return replace(rows, fit=LabelledRows(rows.fit.encoded, logits)), teacher, seconds


def harness_epoch(student: torch.nn.Module, teacher: torch.nn.Module, rows: Rows, precision: str = "fp32") -> float:
    training = make_training(rows, "fixed_alpha", learning_rate=RATE, epochs=1, model=student, precision=precision)
    log = WeightLog(None)
    started = time.perf_counter()
    for chosen in training.batches.epoch(0):
        training._step(0, chosen, log)
    seconds = time.perf_counter() - started
    embed_all_tokens(student)
    return seconds


def harness_epoch_bf16(student: torch.nn.Module, teacher: torch.nn.Module, rows: Rows) -> float:
    return harness_epoch(student, teacher, rows, "bf16")


def textbrewer_epoch(student: torch.nn.Module, teacher: torch.nn.Module, rows: Rows) -> float:
    """As in TextBrewer's notebook for SST-2: padded data set, adaptors, BasicDistiller."""
    import tempfile

    from textbrewer import BasicDistiller, DistillationConfig, TrainingConfig
    from transformers import get_linear_schedule_with_warmup

    whole_layers(student, teacher)
    loader = DataLoader(Padded(rows.fit.encoded), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE)

    def adaptor(_: Any, outputs: Any) -> dict[str, Any]:
        return {"logits": (outputs.logits,), "losses": (outputs.loss,)}

    with tempfile.TemporaryDirectory() as folder, _silent():
        train = TrainingConfig(device="cpu", log_dir=None, output_dir=folder, ckpt_frequency=1)
        distill = DistillationConfig(temperature=TEMPERATURE, hard_label_weight=1.0, kd_loss_weight=1.0)
        distiller = BasicDistiller(train, distill, teacher, student, adaptor, adaptor)
        distiller.save_and_callback = lambda *_: None  # writing files is not compared
        with distiller:
            started = time.perf_counter()
            distiller.train(
                optimizer,
                loader,
                num_epochs=1,
                scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args={"num_warmup_steps": int(0.1 * len(loader)), "num_training_steps": len(loader)},
                max_grad_norm=1.0,
            )
            return time.perf_counter() - started


def torchdistill_epoch(student: torch.nn.Module, teacher: torch.nn.Module, rows: Rows) -> float:
    """As in torchdistill's sample configurations for GLUE: hooks on the classifier, KDLoss."""
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.datasets.registry import register_collate_func

    whole_layers(student, teacher)
    encoded = rows.fit.encoded

    def collate(items: list[int]) -> dict[str, torch.Tensor]:
        given = encoded.inputs(np.asarray(items))
        return {**given, "labels": torch.from_numpy(encoded.labels[items])}

    collate.__name__ = f"collate_{id(collate)}"
    register_collate_func(collate)
    side = {"forward_proc": "forward_batch_only_as_kwargs", "sequential": []}
    kd = {
        "student_module_path": "classifier",
        "student_module_io": "output",
        "teacher_module_path": "classifier",
        "teacher_module_io": "output",
        "temperature": TEMPERATURE,
        "alpha": 0.5,
        "reduction": "batchmean",
    }
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": torch.utils.data.RandomSampler, "kwargs": {}},
            "kwargs": {"batch_size": BATCH},
            "collate_fn": collate.__name__,
            "requires_supp": False,
        },
        "teacher": {**side, "forward_hook": {"input": [], "output": ["classifier"]}, "requires_grad": False},
        "student": {**side, "forward_hook": {"input": [], "output": ["classifier"]}, "requires_grad": True},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": RATE, "weight_decay": 0.0}, "max_grad_norm": 1.0},
        "scheduler": {
            "key": "poly_lr_scheduler",
            "kwargs": {"num_iterations": -(-len(rows.fit) // BATCH), "num_epochs": 1, "power": 1.0},
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}},
        },
    }
    with _silent():
        data = {"train": list(range(len(rows.fit)))}
        box = get_distillation_box(teacher, student, data, config, torch.device("cpu"), None, False, 1)
        box.pre_epoch_process(epoch=0)
        started = time.perf_counter()
        for batch in box.train_data_loader:
            loss = box.forward_process(batch, targets=batch["labels"], supp_dict=None)
            box.post_forward_process(loss=loss)
            loss.item()
        taken = time.perf_counter() - started
        box.clean_modules()
    return taken


class Padded(Dataset[dict[str, torch.Tensor]]):
    """Rows padded to the greatest length, once."""

    def __init__(self, encoded: Encoded) -> None:
        inputs = encoded.inputs(np.arange(len(encoded.ids)), LENGTH)
        self.columns = {**inputs, "labels": torch.from_numpy(np.asarray(encoded.labels))}

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def whole_layers(*models: torch.nn.Module) -> None:
    """The models as `transformers` makes them: its layers and dropout, and all tokens in the last layer too."""
    for model in models:
        for module in as_transformers_has_it(model).modules():
            module._forward_pre_hooks.clear()


def _import_torchdistill(options: Options) -> bool:
    """It imports torchvision, which needs its compiled operators; for text, their names are enough where they do not load."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    while True:
        try:
            return options.import_baseline("torchdistill.core.distillation")
        except RuntimeError as error:
            missing = re.match(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            library.define(f"{missing[1]}(Tensor given) -> Tensor")
            for name in [name for name in sys.modules if name.split(".")[0] in ("torchvision", "torchdistill")]:
                del sys.modules[name]


def _right(student: torch.nn.Module, rows: Rows) -> np.ndarray:
    """[report rows]: is the student right?"""
    logits = predict(student, rows.report, np.arange(len(rows.report.ids))).logits
    return (logits.argmax(-1).numpy() == rows.report.labels).astype(float)


@contextlib.contextmanager
def _silent() -> Any:
    logging.disable(logging.INFO)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
    logging.disable(logging.NOTSET)
