"""Samples a second and model-FLOP utilisation on a GPU: bf16, with and without torch.compile, one to eight packed trials."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import torch
from torch.nn import functional as F

from harness.models.build import build_model, count_parameters, encoder_layers
from harness.study.schema import ModelSpec
from tests.benchmarks.outcome import Options, Outcome
from tests.benchmarks.setting import STUDENT

BATCH, LENGTH = 128, 64
STUDENTS = {
    "MiniLM, 3 layers": STUDENT,
    "DistilRoBERTa's shape, random weights": ModelSpec(
        config={
            "model_type": "roberta",
            "hidden_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 514,
        },
        tokenizer="words",
    ),
}
DENSE_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "L40S": 362e12}
"""Without sparsity, from the makers' data sheets, by a part of the device's name."""


def run(options: Options) -> Outcome:
    if not torch.cuda.is_available():
        note = "This machine has no CUDA device: nothing was measured. Run it where there is one."
        return Outcome("throughput on a GPU", [{"GPU": "none"}], [note])
    rows = []
    for name in STUDENTS:
        for compiled in (False, True):
            rows.append({"student": name, "torch.compile": compiled, "K": 1, **_row(name, [throughput(name, compiled)])})
        for count in (2, 4, 8):
            rows.append({"student": name, "torch.compile": False, "K": count, **_row(name, _packed(name, count))})
    notes = [
        f"{torch.cuda.get_device_name()}; bf16 autocast, batch {BATCH} x {LENGTH} tokens, AdamW; K processes share the device.",
        "Utilisation: 6 FLOPs a parameter used and token (embeddings left out; above its attention the last layer computes one "
        "token), and attention's own, over the device's dense bf16 peak; empty where the peak is not known.",
    ]
    return Outcome("throughput on a GPU", rows, notes)


def _row(name: str, samples_a_second: list[float]) -> dict[str, Any]:
    total = sum(samples_a_second)
    device = torch.cuda.get_device_name()
    peaks = [peak for part, peak in DENSE_BF16_FLOPS.items() if part in device]
    used = 100 * total * flops_a_sample(name) / peaks[0] if peaks else None
    return {"samples a second": round(total), "model-FLOP utilisation %": "" if used is None else round(used, 1)}


def flops_a_sample(name: str) -> float:
    """Forward and backward: three times the forward pass."""
    model = build_model(STUDENTS[name], 2, 0, 30522)
    layers = encoder_layers(model)
    hidden = model.config.hidden_size
    a_layer = count_parameters(layers[0])
    first_token_only = 9 * hidden**2  # output projection and feed-forward
    parameters_tokens = LENGTH * a_layer * len(layers) - (LENGTH - 1) * first_token_only
    attention = len(layers) * 2 * LENGTH**2 * hidden
    return 3.0 * 2 * (parameters_tokens + attention)


def throughput(name: str, compiled: bool, barrier: Any = None, device: str = "cuda", steps: int = 100) -> float:
    """Samples a second of training steps."""
    torch.set_float32_matmul_precision("high")
    model = build_model(STUDENTS[name], 2, 0, 30522).to(device)
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    tokens = torch.randint(4, 30000, (BATCH, LENGTH), device=device)
    mask, labels = torch.ones_like(tokens), torch.randint(0, 2, (BATCH,), device=device)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = F.cross_entropy(run(input_ids=tokens, attention_mask=mask).logits.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(max(1, steps // 10)):
        step()
    synchronize()
    if barrier is not None:
        barrier.wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return steps * BATCH / (time.perf_counter() - started)


def _packed(name: str, count: int) -> list[float]:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    workers = [context.Process(target=_report, args=(name, barrier, results)) for _ in range(count)]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return found


def _report(name: str, barrier: Any, results: Any) -> None:
    results.put(throughput(name, False, barrier))
