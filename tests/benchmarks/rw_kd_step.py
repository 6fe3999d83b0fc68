"""A training step of rw_kd (network) against a plain KD step: batch 32, meta batch 32, look-ahead in every step."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from harness.data.batches import MetaBatches
from harness.loss_terms.logit_terms import TermInputs, compute_terms
from harness.models.build import build_model, run_model
from harness.models.sources import model_directory
from harness.study.schema import ModelSpec
from strategies.base import TermShape
from tests.benchmarks.measure import in_turns, median_ratio, memory_mib
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.setting import MINILM, STUDENT, TEMPERATURE, Rows, glue_rows, make_training, step_of
from tests.harness.look_ahead.test_on_text import Cosines, cosines_to_exact

ROWS = 2500
PLAIN, DEFAULT = "plain KD step", "rw_kd, default"
LAST, CHEAPEST = "rw_kd, last layer of three", "rw_kd, last layer, meta gradient in bf16"
BF16 = "rw_kd, meta gradient in bf16"
"""Full fidelity: its cosine to the exact meta gradient is bounded at 0.9999."""
IN_BF16 = "rw_kd, the whole step in bf16"
EXACT, FUNC, HIGHER = "rw_kd, exact", "double backward, torch.func", "double backward, higher"
FUNC_CUT = "double backward, torch.func, on the harness's student"
"""Whose last layer computes the first token alone (`harness.models.build`); the others have transformers' own student."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("fixed_alpha", {}),
    DEFAULT: ("rw_kd", {}),
    BF16: ("rw_kd", {"meta_precision": "bf16"}),
    LAST: ("rw_kd", {"look_ahead_layers": 1}),
    CHEAPEST: ("rw_kd", {"look_ahead_layers": 1, "meta_precision": "bf16"}),
    EXACT: ("rw_kd", {"engine": "exact", "shortest_look_ahead": 0.0}),
}
FIDELITY = {
    "default": DEFAULT,
    "meta gradient in bf16": BF16,
    "all in bf16": IN_BF16,
    "last layer": LAST,
    "last layer, meta in bf16": CHEAPEST,
}
"""Of tests/harness/test_lookahead_on_text.py, which bounds them."""


def run(options: Options) -> Outcome:
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    targets = []
    parts = (("mrpc", "fp32", 8), ("sst2", "fp32", 30), ("mrpc", "bf16", 8))
    for task, precision, rounds in (("cola", "fp32", 1),) if options.small else parts:
        rows = glue_rows(task, 300 if options.small else ROWS, options.cache)
        steps: dict[str, Callable[[int], object]] = {}
        for name, (strategy, settings) in VARIANTS.items():
            if precision == "bf16" and name in (EXACT, BF16, CHEAPEST):
                continue  # the first is for float32, the others are what they are without this setting
            steps[name] = step_of(make_training(rows, strategy, settings, precision=precision))
        cosines = {}
        if precision == "fp32":
            steps[IN_BF16] = step_of(make_training(rows, "rw_kd", precision="bf16"))
            steps[FUNC] = literal_step(rows, transformers_student(), with_torch_func)
            steps[FUNC_CUT] = literal_step(rows, build_model(STUDENT, 2, 1, rows.vocabulary, "eager"), with_torch_func)
            if options.import_baseline("higher"):
                steps[HIGHER] = literal_step(rows, transformers_student(), with_higher)
            cosines = cosines_to_exact(rows, 2, range(1)) if options.small else cosines_to_exact(rows, 25, range(10))
        seconds = in_turns(steps, rounds)
        for name, times in seconds.items():
            row = {"task": task, "precision": precision, "step": name, "seconds": round(statistics.median(times), 4)}
            row["of plain"] = round(median_ratio(times, seconds[PLAIN]), 2)
            for way in (way for way, shown in FIDELITY.items() if shown == name and cosines):
                row |= {"cosine to exact": cosines[way].together, "of one batch, least": cosines[way].least}
            found.append(row)
        targets += targets_of(task, precision, seconds, cosines)
    targets += memory(found, options.cache)
    notes = [
        "Student: MiniLM, 3 layers, its own dropout 0.1; one thread. Ratios: medians over rounds taken in turns.",
        "Full fidelity: `meta_precision: bf16`, for a processor that multiplies in bf16. The default takes the meta gradient "
        "in the training's precision, four passes on top of three. In a training in bf16 the fourth, in forward mode, takes as "
        "long as two, so that 2.2 is out of reach.",
        "Double backward as one would write it: the student as transformers makes it, eager attention; and on the student "
        "whose last layer the harness cuts to the first token.",
        "Cosines to the exact influences of 10 batches together, dropout on, after 25 plain steps, and of the worst of them, "
        "where the meta batch's samples all but cancel; bounded by tests/harness/test_lookahead_on_text.py.",
        "Memory: resident at most in steps on the first task, the whole process with its libraries; own: without what it held "
        "before there were model and optimiser.",
    ]
    if HIGHER not in {row["step"] for row in found}:
        notes.append("higher is not installed (--baselines).")
    return Outcome("rw_kd against a plain step", found, notes, targets)


def targets_of(task: str, precision: str, seconds: dict[str, list[float]], cosines: dict[str, Cosines]) -> list[Target]:
    """Every setting against what is to be reached, whether it reaches it or not."""
    shown = f"{task}, {precision}"
    found = []
    for name, at_most in ((DEFAULT, 2.2), (BF16, 2.2), (LAST, 1.5), (CHEAPEST, 1.5)):
        if name in seconds:
            found.append(Target(f"{shown}: {name}, of plain", median_ratio(seconds[name], seconds[PLAIN]), at_most=at_most))
    if FUNC in seconds:
        for name in (DEFAULT, BF16, IN_BF16):
            for literal, student in ((FUNC, ""), (FUNC_CUT, " on the harness's student")):
                times = median_ratio(seconds[literal], seconds[name])
                found.append(Target(f"{shown}: torch.func{student}, of {name}", times, at_least=2.5))
        for way in ("default", "meta gradient in bf16", "all in bf16"):
            found.append(Target(f"{shown}: {FIDELITY[way]}, cosine", cosines[way].together, at_least=0.9999))
            found.append(Target(f"{shown}: {FIDELITY[way]}, cosine of the worst batch", cosines[way].least, at_least=0.9999))
    return found


def memory(found: list[dict[str, Any]], cache: Path) -> list[Target]:
    """Written into the rows of the first task."""
    mib = {name: memory_mib(some_steps, cache, name, found[0]["task"]) for name in (PLAIN, DEFAULT, BF16, CHEAPEST)}
    own = {name: peak - before for name, (before, peak) in mib.items()}
    for row in found:
        if row["step"] in mib and (row["task"], row["precision"]) == (found[0]["task"], found[0]["precision"]):
            row["MiB at most"] = round(mib[row["step"]][1])
            row["own MiB"] = round(own[row["step"]])
    return [
        Target(f"{name}, memory of plain, {of}", value[name] / value[PLAIN], at_most=1.3)
        for name in (DEFAULT, BF16)
        for of, value in (("process", {key: peak for key, (_, peak) in mib.items()}), ("own", own))
    ]


def transformers_student() -> torch.nn.Module:
    """The student with nothing of the harness in it; eager, because fused attention cannot be differentiated twice."""
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # it would report the new classification layer
    logging.disable_progress_bar()
    path = model_directory(MINILM, None)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2, attn_implementation="eager")
    model.bert.encoder.layer = torch.nn.ModuleList(model.bert.encoder.layer[i] for i in STUDENT.layers or [])
    assert isinstance(model, torch.nn.Module)
    return model.train()


def literal_step(
    rows: Rows, model: torch.nn.Module, meta_gradient: Callable[..., list[torch.Tensor]]
) -> Callable[[int], object]:
    """One plain training step whose weights a network gives, which was trained by back-propagation through the look-ahead."""
    training = make_training(rows, "rw_kd", {"engine": "exact"})
    network = torch.nn.Sequential(torch.nn.Linear(6, 100), torch.nn.ReLU(), torch.nn.Linear(100, 2), torch.nn.Softmax(1))
    meta_optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, fused=True)
    batches = training.batches.epoch(0)
    meta_batches = MetaBatches(rows.meta.encoded.lengths, 32, 0)
    device = torch.device("cpu")

    def step(index: int) -> None:
        chosen = batches[index % len(batches)]
        batch = rows.fit.batch(chosen, len(chosen), device)
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


def some_steps(cache: Path, name: str, task: str) -> Iterator[None]:
    """In a process of its own: data and libraries; model and optimiser; steps."""
    torch.set_num_threads(1)
    rows = glue_rows(task, 300, cache)
    build_model(ModelSpec(model=MINILM, layers=[0]), 2, 1, rows.vocabulary)
    yield
    strategy, settings = VARIANTS[name]
    step = step_of(make_training(rows, strategy, settings))
    yield
    for index in range(4):
        step(index)
