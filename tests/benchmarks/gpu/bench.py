"""What the stages measure on: students of usual shapes with random weights, made-up rows, and the harness's training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.encode import Encoded
from harness.data.labelled_rows import LabelledRows
from harness.models.build import build_model
from harness.study.schema import ModelSpec
from harness.training.loop import Training
from tests.benchmarks.setting import Rows, make_training

SHAPES = {"minilm3": (384, 3, 12), "distil6": (768, 6, 12), "base12": (768, 12, 12)}
"""Name -> hidden size, layers, heads: three of MiniLM's layers, DistilRoBERTa's shape, a BERT-base."""
VARIANTS: list[tuple[str, dict[str, Any], str]] = [
    ("fixed_alpha", {}, "plain KD"),
    ("rw_kd", {}, "rw_kd, auto"),
    ("rw_kd", {"engine": "fd"}, "rw_kd, fd"),
    ("rw_kd", {"engine": "jvp"}, "rw_kd, jvp"),
    ("rw_kd", {"engine": "exact"}, "rw_kd, exact"),
    ("rw_kd", {"look_ahead_layers": 1}, "rw_kd, 1 layer"),
    ("rw_kd", {"look_ahead_layers": 1, "engine": "fd"}, "rw_kd, 1 layer, fd"),
    ("rw_kd", {"precondition": "adam"}, "rw_kd, adam"),
    ("wsl", {}, "wsl"),
]
"""Strategies, with settings, whose steps are measured."""


class Bench:
    """Sizes for a GPU; tiny ones without CUDA or with `small`, which show that a stage runs and mean nothing."""

    def __init__(self, small: bool, glue: Path) -> None:
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.small = small or not self.cuda
        self.precision = "bf16" if self.cuda else "fp32"
        self.glue = glue
        if self.small:
            torch.set_num_threads(1)

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any]) -> float:
        self.synchronize()
        began = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - began

    def config(self, name: str) -> dict[str, Any]:
        hidden, layers, heads = (16, 2, 2) if self.small else SHAPES[name]
        return {
            "model_type": "bert",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 4 * hidden,
            "vocab_size": 500 if self.small else 30522,
        }

    def model(self, name: str, dropout: float | None = None, seed: int = 0) -> Any:
        config = self.config(name)
        return build_model(ModelSpec(config=config, dropout=dropout), 2, seed, config["vocab_size"])

    def rows(self, count: int, longest: int = 64, seed: int = 0) -> LabelledRows:
        """Rows with lengths like GLUE's single sentences and pairs, and teacher logits."""
        generator = np.random.default_rng(seed)
        lengths = np.clip(generator.gamma(6, longest / 14, count), 4, longest).astype(np.int32)
        encoded = Encoded(
            ids=np.arange(count),
            labels=generator.integers(0, 2, count),
            flipped=None,
            lengths=lengths,
            tokens=generator.integers(4, 400 if self.small else 8000, int(lengths.sum())).astype(np.int32),
            segments=None,
            starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
            pad_token=0,
        )
        return LabelledRows(encoded, generator.normal(size=(1, count, 2)).astype(np.float32))

    def task(self, count: int = 2048, longest: int = 64) -> Rows:
        count = 200 if self.small else count
        fit, meta = self.rows(count, longest), self.rows(max(64, count // 8), longest, 1)
        return Rows(None, fit, meta, meta.encoded, meta.encoded, self.config("minilm3")["vocab_size"])

    def training(
        self, task: Rows, student: str, strategy: str, settings: dict[str, Any], precision: str, batch: int = 32, **options: Any
    ) -> Training:
        model = self.model(student)
        return make_training(
            task, strategy, settings, precision=precision, model=model, batch_size=batch, learning_rate=2e-4, **options
        )


DENSE_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Without sparsity, from the makers' data sheets, by a part of the device's name."""


def flops_a_sample(config: Mapping[str, Any], length: float) -> float:
    """Of a training step, forward and backward: three times the forward pass. `length`: tokens of the sample.

    Two operations a parameter used and token, embeddings left out (above its attention the last layer computes one token), and
    attention's own.
    """
    hidden, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    a_layer = 4 * hidden**2 + 2 * hidden * inner
    first_token_only = hidden**2 + 2 * hidden * inner
    attention = layers * 2 * length**2 * hidden
    return 6.0 * (length * a_layer * layers - (length - 1) * first_token_only + attention)


def utilisation(flops_a_second: float) -> float | None:
    """Model-FLOP utilisation in percent of the device's dense bf16 peak; None where that is not known."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peaks = [peak for part, peak in DENSE_BF16_FLOPS.items() if part in device]
    return 100 * flops_a_second / peaks[0] if peaks else None


def as_text(percent: float | None) -> str:
    return "" if percent is None else f", MFU {percent:.2f} %"


def made_up_batch(batch: int, length: int, vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens [batch, length], mask [batch, 1, length, length], labels [batch], teacher logits [batch, 2]. Half are padded."""
    tokens = torch.randint(4, vocabulary, (batch, length), device=device)
    keep = torch.ones(batch, 1, 1, length, dtype=torch.bool, device=device)
    keep[: batch // 2, ..., -2:] = False
    # of four dimensions: transformers takes it as it is, and does not ask the GPU whether anything is padded
    mask = keep.expand(batch, 1, length, length).contiguous()
    return tokens, mask, torch.randint(0, 2, (batch,), device=device), torch.randn(batch, 2, device=device)


def bare_step(model: Any, optimizer: torch.optim.Optimizer, call: Any, given: tuple[Tensor, ...]) -> Callable[[], None]:
    """A step of plain KD in bf16 as one would write it by hand, which the harness's own is held against.

    `call`: the model, or what it was compiled to.
    """
    tokens, mask, labels, teacher = given

    def step() -> None:
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
            logits = call(input_ids=tokens, attention_mask=mask).logits
        logits = logits.float()
        kd = F.kl_div(F.log_softmax(logits / 2, -1), F.log_softmax(teacher / 2, -1), log_target=True, reduction="batchmean")
        loss = 0.5 * F.cross_entropy(logits, labels) + 2 * kd
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step
