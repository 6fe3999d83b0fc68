"""What a batch of a new shape costs at first, with and without cuDNN's attention; evaluation and meta gradients have it."""

from __future__ import annotations

import threading

import numpy as np
import torch

from harness.models.evaluate import predict
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.stages import Found
from tests.benchmarks.setting import step_of


def run(found: Found, bench: Bench) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        for cudnn in (True, False):
            torch.backends.cuda.enable_cudnn_sdp(cudnn)
            _measure(found, bench, cudnn)
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def _measure(found: Found, bench: Bench, cudnn: bool) -> None:
    rows = bench.rows(200 if bench.small else 4000, 128)
    model = bench.model("minilm3").to(bench.device)

    def evaluate() -> float:
        return bench.seconds(lambda: predict(model, rows.encoded, np.arange(len(rows)), bench.precision))

    passes = [evaluate() for _ in range(3)]
    elsewhere: list[float] = []
    thread = threading.Thread(target=lambda: elsewhere.append(evaluate()))
    thread.start()
    thread.join()  # cuDNN keeps its plans for each thread, and Tune trains each trial in a new one
    step = step_of(bench.training(bench.task(1024, 128), "minilm3", "rw_kd", {}, bench.precision))
    count = 4 if bench.small else 32
    first, again = ([bench.seconds(lambda i=i: step(i)) for i in range(count)] for _ in range(2))
    entry = {
        "cudnn": cudnn,
        "evaluation_passes_s": passes,
        "in_a_new_thread_s": elsewhere[0],
        "rw_kd_first_s": sum(first),
        "rw_kd_again_s": sum(again),
        "slowest_step_s": max(first),
    }
    found.add("shapes", entry)
    found.say(
        f"cuDNN attention {cudnn!s:5}: evaluation of {len(rows)} rows {passes[0]:.2f} s at first, {passes[-1]:.2f} s then, "
        f"{elsewhere[0]:.2f} s in a new thread; {count} rw_kd steps {sum(first):.2f} s at first, {sum(again):.2f} s then; "
        f"slowest {1e3 * max(first):.0f} ms"
    )
