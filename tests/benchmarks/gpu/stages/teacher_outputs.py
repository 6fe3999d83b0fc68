"""Rows a second of a teacher's outputs, as `harness.teachers` makes them, by batch size."""

from __future__ import annotations

from functools import partial

import numpy as np

from harness.models import evaluate
from tests.benchmarks.gpu.bench import Bench, as_text, flops_a_sample, utilisation
from tests.benchmarks.gpu.stages import Found


def run(found: Found, bench: Bench) -> None:
    rows = bench.rows(300 if bench.small else 16000, 128)
    before = evaluate.EVALUATION_BATCH
    try:
        for student in ("base12", "minilm3"):
            model = bench.model(student).to(bench.device)
            for batch in (128, 512, 1024):
                evaluate.EVALUATION_BATCH = batch
                predict = partial(evaluate.predict, model, rows.encoded, np.arange(len(rows)), bench.precision)
                _first, seconds = bench.seconds(predict), bench.seconds(predict)
                flops = flops_a_sample(bench.config(student), float(rows.encoded.lengths.mean())) / 3
                mfu = utilisation(flops * len(rows) / seconds)
                entry = {"model": student, "batch": batch, "rows_s": len(rows) / seconds, "mfu_percent": mfu}
                found.add("teacher_outputs", entry)
                found.say(f"{student} outputs, batches of {batch}: {len(rows) / seconds:9.0f} rows/s{as_text(mfu)}")
    finally:
        evaluate.EVALUATION_BATCH = before
