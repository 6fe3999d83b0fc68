"""Cosines of the look-ahead engines' influences to float64 on the CPU, and whether they repeat the step's dropout masks."""

from __future__ import annotations

from typing import Any

import torch

from harness.look_ahead.look_ahead import LookAhead
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.stages import Found
from tests.harness.look_ahead.looking_ahead import TERMS, cosine, cosine_to_the_step, make_batch, some_weights, student

MINILM3 = {"hidden_size": 384, "num_hidden_layers": 3, "num_attention_heads": 12, "intermediate_size": 1536}
ENGINES = [("fp32", "fd"), ("fp32", "jvp"), ("fp32", "exact"), ("bf16", "jvp")]


def run(found: Found, bench: Bench) -> None:
    for shape in [{}] if bench.small else [{}, MINILM3]:
        _against_float64(found, bench.device, shape)
    for dropout in (0.1, 0.0):
        for precision, engine in ENGINES:
            close = cosine_to_the_step(bench.device, precision, engine, dropout)
            found.add("masks", {"attention_dropout": dropout, "precision": precision, "engine": engine, "cosine": close})
            verdict = "same masks" if close > 0.999 else "OTHER MASKS THAN THE STEP'S"
            found.say(f"attention dropout {dropout} {precision} {engine:5}: cosine to the step's own {close:.5f}  {verdict}")


def _against_float64(found: Found, device: torch.device, shape: dict[str, Any]) -> None:
    batch, meta = make_batch(2, 32, 1, length=24), make_batch(2, 32, 2, length=24)
    weights = some_weights(32)
    reference = student(attention="eager", **shape).double().eval()
    exact = LookAhead(reference, TERMS, "exact").influence(batch, meta, 1e-3, {n: w.double() for n, w in weights.items()})
    model = student(**shape).to(device).eval()
    there = {n: w.to(device) for n, w in weights.items()}
    for precision in ("fp32", "bf16"):
        for engine in ("exact", "jvp", "fd"):
            for tf32 in (False, True) if (precision, engine) == ("fp32", "fd") else (False,):
                look = LookAhead(model, TERMS, engine, meta_precision=precision, jvp_precision=precision)
                before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("high" if tf32 else "highest")
                try:
                    got = look.influence(batch.to(device), meta.to(device), 1e-3, there)
                finally:
                    torch.set_float32_matmul_precision(before)
                close = cosine({n: t.cpu() for n, t in got.items()}, exact)
                entry = {"shape": shape, "precision": precision, "engine": engine, "tf32": tf32, "cosine": close}
                found.add("engines", entry)
                hidden = shape.get("hidden_size", 32)
                found.say(f"hidden {hidden} {precision} {engine:5} tf32 {tf32!s:5}: cosine to float64 {close:.6f}")
