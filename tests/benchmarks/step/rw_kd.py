"""A training step of rw_kd (network) against a plain KD step: batch 32, meta batch 32, look-ahead in every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from torch.nn import functional as F

from harness.data.batches import MetaBatches
from harness.loss_terms.logit_terms import TermInputs, compute_terms
from harness.loss_terms.registry import FASTEST
from harness.models.build import build_model, run_model
from harness.models.sources import model_directory
from harness.study.schema import ModelSpec
from strategies.base import LookAheadEngine, TermShape
from tests.benchmarks.measure import compared, in_turns, median_ratio, memory_mib
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.setting import MINILM, STUDENT, TEMPERATURE, Rows, glue_rows, make_training, precisions, step_of

ROWS = 2500
ROUNDS, SECONDS = {"cola": 20, "mrpc": 8}, 25
INTERVALS, INTERVAL_SECONDS = (1, 2, 4), 15
PLAIN, LAST, META_IN_BF16 = "plain KD step", "rw_kd, last layer of three", "rw_kd, meta gradient in bf16"
FUNC, FUNC_CUT = "double backward, torch.func", "double backward, torch.func, on the harness's student"
"""The latter's last layer computes the first token alone (`harness.models.build`); the other is transformers' own student."""
AT_MOST = {"fp32": 2.4, "bf16": 2.6}
"""Times a plain step; the count of products allows 7/3."""
NOTES = [
    "rw_kd: batch and meta batch of 32, look-ahead in every step but where an interval is said; `engine: auto` takes "
    + " and ".join(f"{FASTEST['cpu', precision][0]} in {precision}" for precision in AT_MOST)
    + ". Fidelity of each way to the exact influences is bounded by tests/harness/look_ahead/test_on_text.py.",
    "Double backward as one would write it: the student as transformers makes it, eager attention; and on the student whose "
    "last layer the harness cuts to the first token.",
    "Memory: resident at most in steps, the whole process with its libraries; own: without what it held before there were "
    "model and optimiser.",
    "One backward pass for influences and training together is not built: its floor, 7/3 of a plain step, is about where the "
    "finite difference is.",
]


def run(options: Options) -> Iterator[Outcome]:
    for task in ("cola",) if options.small else ROUNDS:
        rows = glue_rows(task, 300 if options.small else ROWS, options.cache)
        for precision in AT_MOST:
            yield ways(task, rows, precision, options.small)
        if task == "cola":
            yield intervals(rows, options.small)
    yield memory(options)


def ways(task: str, rows: Rows, precision: str, small: bool) -> Outcome:
    """Look-aheads and double backward against a plain step."""
    default = f"rw_kd, {FASTEST['cpu', precision][0]}"
    target = f"{task}, {precision}: rw_kd, of plain"
    if precision not in precisions():
        return Outcome("", [], targets=[Target(target, None, at_most=AT_MOST[precision])])

    def one(strategy: str, **settings: Any) -> Callable[[int], object]:
        step: Callable[[int], object] = step_of(make_training(rows, strategy, settings, precision=precision))
        return step

    # every engine takes the meta gradient where the student stands, as they do by default
    engines = [name for name in reversed(get_args(LookAheadEngine)) if precision == "fp32" or name != "exact"]
    steps = {PLAIN: one("fixed_alpha"), **{f"rw_kd, {name}": one("rw_kd", engine=name) for name in engines}}
    if precision == "fp32":
        if "bf16" in precisions():
            steps[META_IN_BF16] = one("rw_kd", meta_precision="bf16")
        steps[FUNC] = literal_step(rows, transformers_student(), with_torch_func)
        steps[FUNC_CUT] = literal_step(rows, build_model(STUDENT, 2, 1, rows.vocabulary, "eager"), with_torch_func)
    steps[LAST] = one("rw_kd", look_ahead_layers=1)
    rounds = 1 if small else ROUNDS[task]
    warm_up = rounds if precision == "bf16" else 1  # bf16's kernels are compiled for each shape
    seconds = in_turns(steps, rounds, warm_up, time.process_time, SECONDS)
    targets = [Target(target, median_ratio(seconds[default], seconds[PLAIN]), at_most=AT_MOST[precision])]
    targets.append(Target(f"{task}, {precision}: {LAST}, of plain", median_ratio(seconds[LAST], seconds[PLAIN]), at_most=1.5))
    for name in (FUNC, FUNC_CUT):
        if name in seconds:
            times = median_ratio(seconds[name], seconds[default])
            targets.append(Target(f"{task}, {precision}: {name}, of rw_kd", times, at_least=2.5))
    about = {"stage": "rw_kd", "task": task, "precision": precision}
    return Outcome("", [about | row for row in compared(seconds, dict.fromkeys((FUNC, LAST), default))], NOTES, targets)


def intervals(rows: Rows, small: bool) -> Outcome:
    """The meta gradient in every, every other and every fourth step: seconds of four steps."""

    def four(strategy: str, **settings: Any) -> Callable[[int], object]:
        step = step_of(make_training(rows, strategy, settings))
        return lambda index: [step(4 * index + k) for k in range(4)]

    steps = {"four plain steps": four("fixed_alpha")}
    steps |= {f"four of rw_kd, interval {interval}": four("rw_kd", interval=interval) for interval in INTERVALS}
    seconds = in_turns(steps, 1 if small else ROUNDS["cola"], 1, time.process_time, INTERVAL_SECONDS)
    return Outcome("", [{"stage": "interval", "task": "cola", "precision": "fp32"} | row for row in compared(seconds)])


def memory(options: Options) -> Outcome:
    """Of a plain step and of one of rw_kd, in processes of their own."""
    task = "cola" if options.small else "mrpc"
    mib = {name: memory_mib(some_steps, options.cache, name, task) for name in ("fixed_alpha", "rw_kd")}
    rows, targets = [], []
    for name, (before, peak) in mib.items():
        about = {"stage": "memory", "task": task, "precision": "fp32", "way": name}
        rows.append(about | {"MiB at most": round(peak), "own MiB": round(peak - before)})
    (plain_before, plain), (before, peak) = mib.values()
    for what, ratio in (("process", peak / plain), ("own", (peak - before) / (plain - plain_before))):
        targets.append(Target(f"{task}, fp32: rw_kd, memory of plain, {what}", ratio, at_most=1.3))
    return Outcome("", rows, [], targets)


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


def some_steps(cache: Path, strategy: str, task: str) -> Iterator[None]:
    """In a process of its own: data and libraries; model and optimiser; steps."""
    torch.set_num_threads(1)
    rows = glue_rows(task, 300, cache)
    build_model(ModelSpec(model=MINILM, layers=[0]), 2, 1, rows.vocabulary)
    yield
    step = step_of(make_training(rows, strategy))
    yield
    for index in range(4):
        step(index)
