"""One epoch of single-teacher distillation: the harness, TextBrewer and torchdistill on the same rows and models."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from harness.data.encode import Encoded
from harness.models.build import build_model
from harness.models.evaluate import autocast, predict
from harness.models.run import attention_for_the_way_back
from harness.study.schema import ModelSpec
from harness.training.weight_log import WeightLog
from tests.benchmarks.measure import compared, in_turns, median_ratio
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.setting import MINILM, STUDENT, TEMPERATURE, Rows, glue_rows, make_training, precisions
from tests.harness.small_models import as_transformers_has_it

ROWS = {"cola": 8551, "mrpc": 3668}
"""All of the task's training split; the four fifths that are neither meta nor selection rows make the epoch."""
ROUNDS, SECONDS = 8, 35
BATCH = 32
LENGTH = 128
RATE = 2e-4
HARNESS, OUTPUTS = "harness", "teacher's outputs, once for all epochs and trials"
TEXTBREWER, TORCHDISTILL = "TextBrewer 0.2.1", "torchdistill 1.1.5"
BATCHES = {HARNESS: 8, OUTPUTS: 4, TORCHDISTILL: 4, TEXTBREWER: 1}
"""Of an epoch are taken in a round: others in every round, fewer where they cost more."""
AT_LEAST = {
    ("cola", TEXTBREWER, "fp32"): 6.0,
    ("mrpc", TEXTBREWER, "fp32"): 4.0,
    ("cola", TORCHDISTILL, "fp32"): 5.0,
    ("mrpc", TORCHDISTILL, "fp32"): 4.0,
    ("cola", TORCHDISTILL, "bf16"): 6.0,
    ("mrpc", TORCHDISTILL, "bf16"): 5.5,
}
"""Times the harness's epoch, in a precision of the harness; the others' in fp32."""
NOTES = [
    "An epoch: MiniLM-L6 teaches three of its layers; batch 32, AdamW, CE and KD. TextBrewer as in its notebook for SST-2 "
    "(rows padded to 128 tokens, the teacher run in every step; its checkpoint at the epoch's end left out); torchdistill as "
    "in its GLUE configurations (DataCollatorWithPadding, random order, learning rate down to 0). The harness has the "
    "teacher's outputs from its cache: what they take once is a way of its own. Milliseconds: of 32 rows of an epoch of all "
    "rows of the task, of which each round takes some batches; the harness's hold rows of similar length, and those taken "
    "are spread over all lengths.",
]


def run(options: Options) -> Iterator[Outcome]:
    build_model(ModelSpec(model=MINILM), 2, 0, 30522)  # before the baselines are imported
    others: dict[str, Callable[..., float]] = {}
    if options.import_baseline("textbrewer"):
        others[TEXTBREWER] = textbrewer_epoch
    if options.baselines is not None and _import_torchdistill(options):
        others[TORCHDISTILL] = torchdistill_epoch
    missing = [f"{name} is not installed (--baselines)." for name in (TEXTBREWER, TORCHDISTILL) if name not in others]
    for task in ("cola",) if options.small else ROWS:
        rows = glue_rows(task, 80 if options.small else ROWS[task], options.cache, LENGTH, 20)
        work: dict[str, Callable[[int], float]] = {}
        for precision in precisions():
            work[f"{HARNESS}, {precision}"] = partial(harness_batches, rows, precision)
        work[OUTPUTS] = partial(teacher_outputs, build_teacher(rows), rows)
        for name, epoch in others.items():
            teacher = as_transformers_makes_it(build_teacher(rows))
            for precision in precisions():
                shown = name if precision == "fp32" else f"{name}, cast to bf16"
                work[shown] = partial(_other, epoch, teacher, rows, BATCHES[name], precision)
        rounds = 1 if options.small else ROUNDS
        seconds = in_turns(work, rounds, warm_up=rounds if "bf16" in precisions() else 0, limit=SECONDS)
        about = {"stage": "epoch", "task": task, "precision": ""}
        found = [about | row for row in compared(seconds, dict.fromkeys(seconds, next(iter(seconds))))]
        targets = []
        for (of, name, precision), at_least in AT_LEAST.items():
            own = seconds.get(f"{HARNESS}, {precision}")
            times = median_ratio(seconds[name], own) if own and name in seconds else None
            if of == task:
                what = f"{task}: an epoch of {name}, times the harness's in {precision}"
                targets.append(Target(what, times, at_least=at_least))
        yield Outcome("", found, NOTES + missing, targets)


def build_teacher(rows: Rows) -> torch.nn.Module:
    teacher: torch.nn.Module = build_model(ModelSpec(model=MINILM), 2, 0, rows.vocabulary).eval()
    return teacher


def harness_batches(rows: Rows, precision: str, seed: int) -> float:
    """CPU seconds of a batch of the harness's epoch."""
    student = build_model(STUDENT, 2, seed, rows.vocabulary)
    training = make_training(rows, "fixed_alpha", learning_rate=RATE, epochs=1, model=student, precision=precision)
    log = WeightLog(None)
    batches = sorted(training.batches.epoch(seed), key=lambda chosen: int(rows.fit.encoded.lengths[chosen].max()))
    every = max(1, len(batches) // BATCHES[HARNESS])
    batches = batches[int(every * ((0.5 + 0.618 * seed) % 1)) :: every]
    started = time.process_time()
    for chosen in batches:
        training._step(0, chosen, log)
    return BATCH * (time.process_time() - started) / sum(map(len, batches))


def teacher_outputs(teacher: torch.nn.Module, rows: Rows, seed: int) -> float:
    """CPU seconds for 32 rows."""
    chosen = _any(rows, BATCHES[OUTPUTS], seed)
    started = time.process_time()
    predict(teacher, rows.fit.encoded, chosen)
    return BATCH * (time.process_time() - started) / len(chosen)


def _other(epoch: Callable[..., float], teacher: torch.nn.Module, rows: Rows, batches: int, precision: str, seed: int) -> float:
    """CPU seconds for 32 rows, of an epoch of some rows."""
    student = as_transformers_makes_it(build_model(STUDENT, 2, seed, rows.vocabulary))
    torch.manual_seed(seed)
    chosen = _any(rows, batches, seed)
    with autocast(torch.device("cpu"), precision), attention_for_the_way_back(torch.device("cpu")):
        return BATCH * epoch(student, teacher, rows.fit.encoded, chosen) / len(chosen)


def _any(rows: Rows, batches: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(len(rows.fit))[: batches * BATCH]


def textbrewer_epoch(student: torch.nn.Module, teacher: torch.nn.Module, encoded: Encoded, chosen: np.ndarray) -> float:
    """As in TextBrewer's notebook for SST-2: padded data set, adaptors, BasicDistiller."""
    import tempfile

    from textbrewer import BasicDistiller, DistillationConfig, TrainingConfig
    from transformers import get_linear_schedule_with_warmup

    loader = DataLoader(Padded(encoded, chosen), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE)

    def adaptor(_: Any, outputs: Any) -> dict[str, Any]:
        return {"logits": (outputs.logits,), "losses": (outputs.loss,)}

    with tempfile.TemporaryDirectory() as folder, _silent():
        train = TrainingConfig(device="cpu", log_dir=None, output_dir=folder, ckpt_frequency=1)
        distill = DistillationConfig(temperature=TEMPERATURE, hard_label_weight=1.0, kd_loss_weight=1.0)
        distiller = BasicDistiller(train, distill, teacher, student, adaptor, adaptor)
        distiller.save_and_callback = lambda *_: None  # writing files is not compared
        with distiller:
            started = time.process_time()
            distiller.train(
                optimizer,
                loader,
                num_epochs=1,
                scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args={"num_warmup_steps": int(0.1 * len(loader)), "num_training_steps": len(loader)},
                max_grad_norm=1.0,
            )
            return time.process_time() - started


def torchdistill_epoch(student: torch.nn.Module, teacher: torch.nn.Module, encoded: Encoded, chosen: np.ndarray) -> float:
    """As in torchdistill's sample configurations for GLUE: hooks on the classifier, KDLoss."""
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.datasets.registry import register_collate_func

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
            "kwargs": {"num_iterations": -(-len(chosen) // BATCH), "num_epochs": 1, "power": 1.0},
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}},
        },
    }
    with _silent():
        data = {"train": chosen.tolist()}
        box = get_distillation_box(teacher, student, data, config, torch.device("cpu"), None, False, 1)
        box.pre_epoch_process(epoch=0)
        started = time.process_time()
        for batch in box.train_data_loader:
            loss = box.forward_process(batch, targets=batch["labels"], supp_dict=None)
            box.post_forward_process(loss=loss)
            loss.item()
        taken = time.process_time() - started
        box.clean_modules()
    return taken


class Padded(Dataset[dict[str, torch.Tensor]]):
    """Rows padded to the greatest length, once."""

    def __init__(self, encoded: Encoded, chosen: np.ndarray) -> None:
        self.columns = {**encoded.inputs(chosen, LENGTH), "labels": torch.from_numpy(np.asarray(encoded.labels[chosen]))}

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def as_transformers_makes_it(model: torch.nn.Module) -> torch.nn.Module:
    """With its layers and dropout, and all tokens in the last layer, too."""
    for module in as_transformers_has_it(model).modules():
        module._forward_pre_hooks.clear()
    return model


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


@contextlib.contextmanager
def _silent() -> Any:
    logging.disable(logging.INFO)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
    logging.disable(logging.NOTSET)
