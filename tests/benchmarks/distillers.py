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
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from harness.data.encode import Encoded
from harness.evaluate import predict
from harness.labelled_rows import LabelledRows
from harness.models import build_model
from harness.study import ModelSpec
from harness.tasks import compute_metrics
from tests.benchmarks.measure import median_ratio
from tests.benchmarks.outcome import Options, Outcome
from tests.benchmarks.setting import MINILM, TEMPERATURE, Rows, glue_rows, make_training, step_of

TASKS = ("mrpc", "sst2", "cola")
ROWS = 120
ROUNDS = 2
BATCH = 32
LENGTH = 128
TEACHER_EPOCHS = 2
RATE = 2e-4


def run(options: Options) -> Outcome:
    torch.set_num_threads(2)
    build_model(ModelSpec(model=MINILM), 2, 0, 30522)  # before the baselines are imported
    ways: dict[str, Callable[..., float]] = {"harness": harness_epoch}
    if options.import_baseline("textbrewer"):
        ways["TextBrewer 0.2.1, padded to 128"] = textbrewer_epoch
    if options.baselines is not None and _import_torchdistill(options):
        ways["torchdistill 1.1.5, padded to the batch"] = torchdistill_epoch
        ways["torchdistill 1.1.5, padded to 128"] = lambda *given: torchdistill_epoch(*given, pad=True)
    found = []
    for task in TASKS:
        rows, teacher, seconds_once = with_teacher(glue_rows(task, ROWS, options.cache, LENGTH))
        taken: dict[str, list[float]] = {name: [] for name in ways}
        scores: dict[str, list[float]] = {name: [] for name in ways}
        for seed in range(ROUNDS):
            for name, epoch in ways.items():
                student = build_model(ModelSpec(model=MINILM, layers=[0, 2, 4]), 2, seed, rows.vocabulary)
                torch.manual_seed(seed)
                taken[name].append(epoch(student, teacher, rows))
                scores[name].append(_accuracy(student, rows))
        for name in ways:
            found.append(
                {
                    "task": task,
                    "rows": len(rows.fit),
                    "way": name,
                    "seconds an epoch": round(statistics.median(taken[name]), 2),
                    "times the harness's": round(median_ratio(taken[name], taken["harness"]), 2),
                    "accuracy": round(statistics.mean(scores[name]), 3),
                    "standard error": round(math.sqrt(0.25 / len(rows.report.ids) / ROUNDS), 3),
                    "teacher outputs once, s": round(seconds_once, 2) if name == "harness" else "",
                }
            )
    notes = [
        "MiniLM-L6 fine-tuned on the task, to a student of three of its layers; batch 32, two threads, float32; AdamW; CE, KD.",
        "TextBrewer's examples pad all rows to 128 tokens and run the teacher in every step. torchdistill's text example pads "
        "to the batch's longest row; padded to 128 it is shown for comparison.",
        "Accuracy after the one epoch, on report rows, mean over the rounds; standard error: at most, binomial.",
        "The harness computes the teacher's outputs once and reads them in every later epoch and trial.",
    ]
    if len(ways) == 1:
        notes.append("TextBrewer and torchdistill are not installed (--baselines).")
    return Outcome("an epoch of distillation", found, notes)


def with_teacher(rows: Rows) -> tuple[Rows, torch.nn.Module, float]:
    """The rows with the logits of a teacher trained on them, the teacher, and the seconds that these logits took."""
    import dataclasses

    training = make_training(rows, "ce_only", student=ModelSpec(model=MINILM), learning_rate=1e-4, epochs=TEACHER_EPOCHS)
    training.run()
    teacher = training.model.eval()
    started = time.perf_counter()
    logits = predict(teacher, rows.fit.encoded, np.arange(len(rows.fit))).logits.numpy()[None]
    return dataclasses.replace(rows, fit=LabelledRows(rows.fit.encoded, logits)), teacher, time.perf_counter() - started


def harness_epoch(student: torch.nn.Module, teacher: torch.nn.Module, rows: Rows) -> float:
    training = make_training(rows, "fixed_alpha", learning_rate=RATE, epochs=1, model=student)
    step = step_of(training)
    started = time.perf_counter()
    for index in range(training.total_steps):
        step(index)
    return time.perf_counter() - started


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


def torchdistill_epoch(student: torch.nn.Module, teacher: torch.nn.Module, rows: Rows, pad: bool = False) -> float:
    """As in torchdistill's sample configuration for MRPC and its text_classification.py: hooks on the classifier, KDLoss."""
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.datasets.registry import register_collate_func

    whole_layers(student, teacher)
    encoded = rows.fit.encoded

    def collate(items: list[int]) -> dict[str, torch.Tensor]:
        given = encoded.inputs(np.asarray(items), LENGTH if pad else None)
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
    """The models as `transformers` makes them: all tokens in the last layer too."""
    for model in models:
        for module in model.modules():
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


def _accuracy(student: torch.nn.Module, rows: Rows) -> float:
    logits = predict(student, rows.report, np.arange(len(rows.report.ids))).logits
    return compute_metrics(["accuracy"], rows.report.labels, logits.argmax(-1).numpy(), 2)["accuracy"]


@contextlib.contextmanager
def _silent() -> Any:
    logging.disable(logging.INFO)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
    logging.disable(logging.NOTSET)
