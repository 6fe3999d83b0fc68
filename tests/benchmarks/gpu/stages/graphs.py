"""What fewer launches would give: a plain KD step bare, compiled, and as one CUDA graph; K students stacked with vmap."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.benchmarks.gpu.bare_step import bare_step, made_up_batch
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.found import Found


def run(found: Found, bench: Bench) -> None:
    batch, length = (4, 8) if bench.small else (32, 32)
    given = made_up_batch(batch, length, bench.config("minilm3")["vocab_size"], bench.device)

    def report(way: str, make: Callable[[], Callable[[], Any]], students: int = 1) -> None:
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
        entry = {"way": way, "ms": 1e3 * seconds, "students_s": students / seconds, "seconds_to_start": ready}
        found.add("graphs", entry)
        found.say(f"{way:40} {1e3 * seconds:7.3f} ms a step, {students * batch / seconds:9.0f} rows/s, {ready:.1f} s to start")

    report("bare step, eager", lambda: _step(bench, given))
    if bench.cuda:
        report("the whole step as one CUDA graph", lambda: _as_graph(bench, given))
        for mode in ("default", "reduce-overhead"):
            report(f"torch.compile, {mode}", lambda mode=mode: _step(bench, given, mode))
    for count in (1, 2) if bench.small else (1, 8, 32):
        report(f"{count} students stacked with vmap", lambda count=count: _stacked(bench, given, count), count)


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


def _stacked(bench: Bench, given: Any, count: int) -> Callable[[], None]:
    tokens, _, labels, _ = given
    models = [bench.model("minilm3", dropout=0.0, seed=k).to(bench.device) for k in range(count)]
    for model in models:
        model.set_attn_implementation("eager")
    parameters, buffers = torch.func.stack_module_state(models)
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-5, fused=True)

    def loss(held: dict[str, Any], buffers: dict[str, Any]) -> torch.Tensor:
        with torch.autocast(bench.device.type, dtype=torch.bfloat16):
            logits = torch.func.functional_call(models[0], (held, buffers), kwargs={"input_ids": tokens}).logits
        return F.cross_entropy(logits.float(), labels)

    gradients = torch.func.vmap(torch.func.grad(loss))

    def step() -> None:
        found = gradients(parameters, buffers)
        for name, parameter in parameters.items():
            parameter.grad = found[name].detach().contiguous()
        optimizer.step()

    return step
