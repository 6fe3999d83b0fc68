"""A training step of rw_kd (network) against a plain KD step: batch 32, meta batch 32, look-ahead in every step."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from harness.models import build_model, run_model
from harness.study import ModelSpec
from harness.terms import TermInputs, compute_terms
from strategies.base import TermShape
from tests.benchmarks.measure import in_turns, median_ratio, peak_mib
from tests.benchmarks.outcome import Options, Outcome
from tests.benchmarks.setting import MINILM, TEMPERATURE, Rows, glue_rows, make_training, step_of

ROUNDS = 3
ROWS = 2500
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain KD step": ("fixed_alpha", {}),
    "rw_kd, default": ("rw_kd", {}),
    "rw_kd, meta gradient in bf16": ("rw_kd", {"meta_precision": "bf16"}),
    "rw_kd, last layer of three": ("rw_kd", {"look_ahead_layers": 1}),
    "rw_kd, jvp": ("rw_kd", {"engine": "jvp"}),
    "rw_kd, exact": ("rw_kd", {"engine": "exact", "shortest_look_ahead": 0.0}),
}
COSINES = {
    "rw_kd, default": "> 0.9999",
    "rw_kd, meta gradient in bf16": "> 0.9999",
    "rw_kd, last layer of three": "0.75 to 0.99",
    "rw_kd, jvp": "> 0.9999",
    "rw_kd, exact": "1",
    "double backward, torch.func": "1",
    "double backward, higher": "1",
}


def run(options: Options) -> Outcome:
    torch.set_num_threads(1)
    found = []
    for task, precision in (("mrpc", "fp32"), ("sst2", "fp32"), ("mrpc", "bf16")):
        rows = glue_rows(task, ROWS, options.cache)
        steps: dict[str, Callable[[int], object]] = {}
        for name, (strategy, settings) in VARIANTS.items():
            steps[name] = step_of(make_training(rows, strategy, settings, precision=precision))
        if precision == "fp32":
            steps["double backward, torch.func"] = literal_step(rows, with_torch_func)
            if options.import_baseline("higher"):
                steps["double backward, higher"] = literal_step(rows, with_higher)
        else:
            del steps["rw_kd, exact"], steps["rw_kd, meta gradient in bf16"]  # the latter is the default here
        seconds = in_turns(steps, ROUNDS)
        plain = seconds["plain KD step"]
        for name, times in seconds.items():
            row = {"task": task, "precision": precision, "step": name, "seconds": round(statistics.median(times), 4)}
            found.append(row | {"of plain": round(median_ratio(times, plain), 2), "cosine to exact": COSINES.get(name, "")})
    peaks = {name: peak_mib(_few_steps, options.cache, name) for name in list(VARIANTS)[:4]}
    for row in found:
        if row["task"] == "mrpc" and row["precision"] == "fp32" and row["step"] in peaks:
            row["MiB at most"] = round(peaks[row["step"]])
            row["memory of plain"] = round(peaks[row["step"]] / peaks["plain KD step"], 2)
    notes = [
        "Student: MiniLM, 3 layers, its own dropout 0.1; one thread. Ratios: medians over rounds taken in turns.",
        "Cosines are bounded by tests/harness/test_lookahead_on_text.py (real text, trained student, dropout on).",
        "Memory: resident set of the whole process at most, after some steps on MRPC; libraries included.",
    ]
    if "double backward, higher" not in {row["step"] for row in found}:
        notes.append("higher is not installed (--baselines).")
    return Outcome("rw_kd against a plain step", found, notes)


def literal_step(rows: Rows, meta_gradient: Callable[..., list[torch.Tensor]]) -> Callable[[int], object]:
    """One plain training step whose weights a network gives, which was trained by back-propagation through the look-ahead."""
    training = make_training(rows, "rw_kd", {"engine": "exact"})
    model = build_model(ModelSpec(model=MINILM, layers=[0, 2, 4]), 2, 1, rows.vocabulary, "eager")
    network = torch.nn.Sequential(torch.nn.Linear(6, 100), torch.nn.ReLU(), torch.nn.Linear(100, 2), torch.nn.Softmax(1))
    meta_optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, fused=True)
    batches = training.batches.epoch(0)
    meta_batches = training.weighting.meta_batches
    device = torch.device("cpu")

    def step(index: int) -> None:
        chosen = batches[index % len(batches)]
        batch = rows.fit.batch(chosen, len(chosen), device)
        assert meta_batches is not None
        meta_rows = meta_batches.at(index)
        meta = rows.meta.batch(meta_rows, len(meta_rows), device)
        terms = terms_of(model, batch)
        inputs = torch.rand(len(chosen), 6, generator=torch.Generator().manual_seed(index))
        gradient = meta_gradient(model, network, inputs, batch, meta)
        for parameter, found in zip(network.parameters(), gradient, strict=True):
            parameter.grad = found
        meta_optimizer.step()
        with torch.no_grad():
            weights = network(inputs).T
        optimizer.zero_grad()
        sum((w * terms[name]).mean() for w, name in zip(weights, ("ce", "kd"), strict=True)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def terms_of(model: torch.nn.Module, batch: Any, logits: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    logits = run_model(model, batch.inputs).logits if logits is None else logits
    return compute_terms(("ce", "kd"), TermInputs(logits, batch.teacher_logits, batch.labels, TermShape(TEMPERATURE)))


def with_torch_func(
    model: torch.nn.Module, network: torch.nn.Module, inputs: torch.Tensor, batch: Any, meta: Any
) -> list[torch.Tensor]:
    """Gradient of the meta loss after one SGD step, in the network's parameters; through the step, with functional calls."""
    names = [name for name, _ in model.named_parameters()]
    theta = [p.detach().requires_grad_() for p in model.parameters()]

    def logits(parameters: list[torch.Tensor], rows: Any) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(
            model, dict(zip(names, parameters, strict=True)), kwargs=dict(rows.inputs)
        ).logits
        return found

    terms = terms_of(model, batch, logits(theta, batch))
    inner = sum((w * terms[name]).mean() for w, name in zip(network(inputs).T, ("ce", "kd"), strict=True))
    gradient = torch.autograd.grad(inner, theta, create_graph=True, materialize_grads=True)
    fast = [p - 2e-4 * g for p, g in zip(theta, gradient, strict=True)]
    outer = F.cross_entropy(logits(fast, meta), meta.labels)
    return list(torch.autograd.grad(outer, list(network.parameters())))


def with_higher(
    model: torch.nn.Module, network: torch.nn.Module, inputs: torch.Tensor, batch: Any, meta: Any
) -> list[torch.Tensor]:
    """The same by `higher`, as its examples do it."""
    import higher

    sgd = torch.optim.SGD(model.parameters(), lr=2e-4)
    with higher.innerloop_ctx(model, sgd, copy_initial_weights=True) as (fast, inner_optimizer):
        terms = terms_of(model, batch, fast(**batch.inputs).logits)
        inner = sum((w * terms[name]).mean() for w, name in zip(network(inputs).T, ("ce", "kd"), strict=True))
        inner_optimizer.step(inner)
        outer = F.cross_entropy(fast(**meta.inputs).logits, meta.labels)
        return list(torch.autograd.grad(outer, list(network.parameters())))


def _few_steps(cache: Path, name: str) -> None:
    with _one_thread():
        strategy, settings = VARIANTS[name]
        step = step_of(make_training(glue_rows("mrpc", ROWS, cache), strategy, settings))
        for index in range(4):
            step(index)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
