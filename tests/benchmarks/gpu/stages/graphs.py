"""What fewer launches would give: a plain KD step bare, compiled, and as one CUDA graph."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch

from harness.models.graphed_pass import GraphedPass
from tests.benchmarks.gpu.bench import Bench, bare_step, made_up_batch
from tests.benchmarks.gpu.stages import Found
from tests.benchmarks.setting import step_of


def run(found: Found, bench: Bench) -> None:
    batch, length = (4, 8) if bench.small else (32, 32)
    given = made_up_batch(batch, length, bench.config("minilm3")["vocab_size"], bench.device)

    def report(way: str, make: Callable[[], Callable[[], Any]]) -> None:
        """A way that this torch or card refuses is told, and the next one tried."""
        began = time.perf_counter()
        try:
            step = make()
            for _ in range(3):
                step()
            bench.synchronize()
            ready = time.perf_counter() - began
            count = 2 if bench.small else 50
            seconds = bench.seconds(lambda: [step() for _ in range(count)]) / count
        except Exception as error:
            if not bench.cuda:
                raise
            found.add("refused", {"way": way, "error": f"{type(error).__name__}: {error}"})
            found.say(f"{way}: {type(error).__name__}: {str(error)[:200]}")
            return
        entry = {"way": way, "ms": 1e3 * seconds, "students_s": 1 / seconds, "seconds_to_start": ready}
        found.add("graphs", entry)
        found.say(f"{way:40} {1e3 * seconds:7.3f} ms a step, {batch / seconds:9.0f} rows/s, {ready:.1f} s to start")

    for precision in ("fp32", "bf16"):
        report(f"the harness's step, {precision}", lambda precision=precision: _harness_step(bench, precision, graphs=False))
        if bench.cuda:
            way = f"the harness's step, {precision}, training.compile: graphs"
            report(way, lambda precision=precision: _harness_step(bench, precision, graphs=True))
    report("bare step, eager", lambda: _step(bench, given))
    if bench.cuda:
        report("the whole step as one CUDA graph", lambda: _as_graph(bench, given))
        for mode in ("default", "reduce-overhead"):
            report(f"torch.compile, {mode}", lambda mode=mode: _step(bench, given, mode))


def _harness_step(bench: Bench, precision: str, graphs: bool) -> Callable[[], None]:
    """Through three batches again and again: what is captured is so before the clock starts."""
    training = bench.training(bench.task(), "minilm3", "fixed_alpha", {}, precision)
    if graphs:
        training.weighting.student.run = GraphedPass()
    step, turns = step_of(training), itertools.cycle(range(3))
    return lambda: step(next(turns))


def _step(bench: Bench, given: Any, compile_mode: str | None = None) -> Callable[[], None]:
    model = bench.model("minilm3", dropout=0.1).to(bench.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    return bare_step(model, optimizer, model if compile_mode is None else torch.compile(model, mode=compile_mode), given)


def _as_graph(bench: Bench, given: Any) -> Callable[[], Any]:
    model = bench.model("minilm3", dropout=0.1).to(bench.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-5), fused=True, capturable=True)
    step = bare_step(model, optimizer, model, given)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
