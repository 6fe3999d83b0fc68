"""Samples a second and utilisation of a bare step on large batches, eager and compiled: what a card has to give."""

from __future__ import annotations

import torch

from tests.benchmarks.gpu.bench import Bench, as_text, bare_step, flops_a_sample, made_up_batch, utilisation
from tests.benchmarks.gpu.stages import Found

BATCH, LENGTH = 128, 64


def run(found: Found, bench: Bench) -> None:
    batch, length = (4, 8) if bench.small else (BATCH, LENGTH)
    for student in ("minilm3", "distil6"):
        config = bench.config(student)
        given = made_up_batch(batch, length, config["vocab_size"], bench.device)
        for compiled in (False, True) if bench.cuda else (False,):
            model = bench.model(student).to(bench.device).train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
            step = bare_step(model, optimizer, torch.compile(model) if compiled else model, given)
            count = 2 if bench.small else 50
            for _ in range(5):
                step()
            seconds = bench.seconds(lambda step=step, count=count: [step() for _ in range(count)]) / count
            mfu = utilisation(flops_a_sample(config, length) * batch / seconds)
            entry = {"student": student, "compiled": compiled, "samples_s": batch / seconds, "mfu_percent": mfu}
            found.add("throughput", entry)
            way = "compiled" if compiled else "eager"
            found.say(f"{student} batch {batch} x {length} {way:8} {batch / seconds:9.0f} rows/s{as_text(mfu)}")
