"""Which look-ahead tells what a sample's weight does: influences along one real run, against real AdamW steps; and their cost.

The truth is a central difference: the weight of one sample's term goes up and down, the student's own optimiser steps on the
changed loss, gradient clipping and all, and the meta loss there is compared, in float64. `later` is the same some steps of
training further, where the change has also gone through the moments.
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.batch import Batch
from harness.data.batches import MetaBatches
from harness.look_ahead.adam import AdamWStep, adam_direction
from harness.look_ahead.look_ahead import LookAhead
from harness.models.build import run_model
from harness.training.loop import Training
from strategies.base import LookAheadEngine
from tests.benchmarks.measure import in_turns, median_ratio
from tests.benchmarks.outcome import Options, Outcome, Target
from tests.benchmarks.setting import Rows, glue_rows, make_training, step_of
from tests.harness.look_ahead.looking_ahead import TERMS, cosine, part

ROWS, POINTS, SAMPLES, LATER, CHANGE = 2500, (1, 10, 40, 80, 140, 200), (16, 6), 4, 0.25
"""Training rows; steps after which is looked; samples of the batch, for `later` too; further steps; of weights that are one
half."""
WAYS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "precondition: adam": {"precondition": "adam"},
    "adamw_point": {"look_ahead": "adamw_point"},
    "adamw": {"look_ahead": "adamw"},
}
"""Settings of rw_kd."""
ENGINES = {f"sgd, {engine}": {"engine": engine} for engine in get_args(LookAheadEngine)}
"""What `harness.loss_terms.registry.FASTEST` orders."""
PLAIN = "plain KD step"


def run(options: Options) -> Outcome:
    torch.set_num_threads(1)
    rows = glue_rows("cola", 300 if options.small else ROWS, options.cache)
    points, samples = ((0, 2), (2, 2)) if options.small else (POINTS, SAMPLES)
    # the network of this rw_kd is never trained: both weights are one half, as in plain KD
    training = make_training(rows, "rw_kd", {"interval": 10**9}, epochs=4)
    step, meta_batches = step_of(training), MetaBatches(rows.meta.encoded.lengths, 32, 0)
    found = []
    for done in range(max(points) + 1):
        if done in points:
            found.append({"after steps": done, **at_point(training, rows, meta_batches, samples)})
        step(done)
    cost = costs(rows, 1 if options.small else 12)
    found.append({"after steps": "median", **{key: statistics.median(r[key] for r in found) for key in list(found[0])[3:]}})
    found.append({"after steps": "step, of plain", **{name: round(cost[name], 2) for name in (*WAYS, *ENGINES)}})
    notes = [
        f"CoLA, {ROWS} rows, MiniLM with three layers, 4 epochs at 2e-4, dropout off in what is compared; {SAMPLES[0]} samples "
        f"of a batch of 32, both terms, weights of one half that change by {CHANGE}.",
        f"Cosines to the true influences on the next step's meta loss; `later`: on that {LATER} steps of training further "
        f"({SAMPLES[1]} samples).",
        "`adamw, fd`: by the finite difference, as `engine: auto` takes it in full precision; the others exactly.",
        "`step, of plain`: CPU seconds of a whole training step with a look-ahead in every step, batch and meta batch of 32; "
        "`sgd, ENGINE`: by each engine.",
    ]
    middle = found[-2]
    targets = [
        Target("adamw, median cosine to real steps", middle["adamw"], at_least=0.999),
        Target("adamw, fd, median cosine to real steps", middle["adamw, fd"], at_least=0.999),
        Target("adamw, step of plain", cost["adamw"], at_most=3.5),
    ]
    return Outcome("Look-aheads against real AdamW steps", found, notes, targets)


def costs(rows: Rows, rounds: int) -> dict[str, float]:
    """The process's seconds of a step of rw_kd, of those of a plain step."""
    steps = {PLAIN: step_of(make_training(rows, "fixed_alpha"))}
    steps |= {name: step_of(make_training(rows, "rw_kd", settings)) for name, settings in {**WAYS, **ENGINES}.items()}
    seconds = in_turns(steps, rounds, clock=time.process_time)
    return {name: median_ratio(times, seconds[PLAIN]) for name, times in seconds.items()}


def at_point(training: Training, rows: Rows, meta_batches: MetaBatches, samples: tuple[int, int]) -> dict[str, Any]:
    """Cosines where the student stands."""
    now, device = training.progress.step, torch.device("cpu")
    rate, model = training.learning_rate(now), training.model
    per_epoch = len(training.batches.epoch(0))

    def batch_at(step: int) -> Batch:
        chosen = training.batches.epoch(step // per_epoch)[step % per_epoch]
        return rows.fit.batch(chosen, len(chosen), device)

    batch, meta_rows = batch_at(now), meta_batches.at(now)
    meta = rows.meta.batch(meta_rows, len(meta_rows), device)
    model.eval()

    def influence(engine: Any, look_ahead: str = "sgd", precondition: str = "none", base: bool = False) -> dict[str, Tensor]:
        made = LookAhead(model, TERMS, engine, step=look_ahead)  # type: ignore[arg-type]
        if precondition == "adam":
            made.precondition = adam_direction(training.optimizer, made.parameters)
        made.optimizer_step = AdamWStep(training.optimizer, made.parameters, training.recipe.clip_norm)
        with torch.no_grad():
            terms = TERMS(run_model(model, batch.inputs), batch) if base else None
        values = made.influence(batch, meta, rate, dict.fromkeys(("ce", "kd"), 0.5), base_terms=terms)
        return {name: value[: samples[0]] for name, value in values.items()}

    ways = {name: influence("exact", **settings) for name, settings in WAYS.items()}
    ways["adamw, fd"] = influence("fd", "adamw", base=True)
    steps = RealSteps(training, batch, meta, [batch_at(now + 1 + k) for k in range(LATER)])
    true, later = steps.influences(samples[0], later=False), steps.influences(samples[1], later=True)
    first = {name: {term: value[: samples[1]] for term, value in one.items()} for name, one in ways.items()}
    model.train()
    cosines = {name: round(cosine(one, true), 4) for name, one in ways.items()}
    cosines |= {f"{name}, later": round(cosine(one, later), 4) for name, one in first.items() if name in WAYS}
    return {"learning rate": round(rate, 7), "gradient norm": round(steps.norm, 3), **cosines}


class RealSteps:
    """A double-precision copy of a student and its optimiser, which really steps."""

    def __init__(self, training: Training, batch: Batch, meta: Batch, further: list[Batch]) -> None:
        self.training, self.batch, self.meta, self.further = training, batch, meta, further
        self.model = copy.deepcopy(training.model).double().eval()
        self.parameters = list(self.model.parameters())
        own = dict(zip(training.model.parameters(), self.parameters, strict=True))
        groups = [{**group, "params": [own[p] for p in group["params"]]} for group in training.optimizer.param_groups]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        for parameter, state in training.optimizer.state.items():
            self.optimizer.state[own[parameter]] = {
                "step": state["step"].clone(),
                "exp_avg": state["exp_avg"].double(),
                "exp_avg_sq": state["exp_avg_sq"].double(),
            }
        self.start = [p.detach().clone() for p in self.parameters]
        self.state = copy.deepcopy(self.optimizer.state_dict())
        self.gradient = self.gradient_of(batch)
        self.norm = float(torch.nn.utils.get_total_norm(self.gradient))

    def influences(self, samples: int, later: bool) -> dict[str, Tensor]:
        """In the look-ahead's units; by term, [samples]."""
        scale = len(self.batch.ids) / self.training.learning_rate(self.training.progress.step)
        found: dict[str, list[float]] = {"ce": [], "kd": []}
        for name, values in found.items():
            for i in range(samples):
                self.set_back()
                terms = self.terms(part(self.batch, slice(i, i + 1)))
                one = torch.autograd.grad(
                    terms[name].sum() / len(self.batch.ids), self.parameters, allow_unused=True, materialize_grads=True
                )
                up, down = (self.meta_loss(torch._foreach_add(self.gradient, one, alpha=s), later) for s in (CHANGE, -CHANGE))
                values.append((down - up) / (2 * CHANGE) * scale)
        return {name: torch.tensor(values) for name, values in found.items()}

    def meta_loss(self, gradient: Any, later: bool) -> float:
        """After the step on this gradient; and, `later`, plain steps on further batches."""
        self.set_back()
        self.take(gradient, 0)
        for k, batch in enumerate(self.further if later else ()):
            self.take(self.gradient_of(batch), k + 1)
        with torch.no_grad():
            return float(F.cross_entropy(run_model(self.model, self.meta.inputs).logits, self.meta.labels))

    def take(self, gradient: Any, k: int) -> None:
        """As the training loop does."""
        for p, g in zip(self.parameters, gradient, strict=True):
            p.grad = g.clone()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.training.recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate(self.training.progress.step + k)
        self.optimizer.step()

    def set_back(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.start)
        self.optimizer.load_state_dict(copy.deepcopy(self.state))

    def gradient_of(self, batch: Batch) -> Any:
        loss = sum(0.5 * value.mean() for value in self.terms(batch).values())
        return torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return TERMS(run_model(self.model, batch.inputs), batch)
