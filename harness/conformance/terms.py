"""Conformance tests of a loss term: one value a sample, that a student can follow and a look-ahead can differentiate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from harness.conformance.findings import Finding, StrategyReport
from harness.conformance.tiny_training import BATCH, TEMPERATURE, World
from harness.errors import with_place
from harness.loss_terms import TermError, needs_of_terms
from harness.loss_terms.base import LossTerm
from harness.loss_terms.bound import LossTerms
from harness.loss_terms.logit_terms import TERMS, TermInputs
from harness.loss_terms.registry import PLAIN, registered_terms
from harness.models.build import run_batch
from strategies.base import Needs, TermShape

CHECKS = {
    "declaration": "the term says what it is, and every option has a default and a description",
    "runs": "it is computed on a batch with default options",
    "shape": "one value a sample, not reduced",
    "finite": "every value is finite",
    "gradient": "the student has a gradient of it, in every parameter, unless the term declares bypasses_head",
    "samples apart": "a sample's value is its own, unless the term declares whole_batch",
    "determinism": "the same batch gives the same values, and torch's global generator is left alone",
    "look-ahead": "a difference of values agrees with the gradient, unless the term declares stops_gradient",
}
TOLERANCE = 1e-4
RADII = (1e-2, 1e-3, 1e-4)
"""Of differences: where a term bends much a short one is right, where it is small a long one."""


def terms_in_file(file: Path) -> list[str]:
    """Names of the loss terms, classes and plain functions, that a file has registered."""
    source = str(file.resolve())
    known: dict[str, Any] = {**registered_terms(), **{name: one for name, one in TERMS.items() if name not in PLAIN}}
    return [name for name, term in known.items() if inspect.getsourcefile(term) == source]


def check_term(name: str) -> StrategyReport:
    """All checks of one term, by name; those after one that did not run are left out."""
    term = registered_terms().get(name) or TERMS[name]
    origin = f"{inspect.getsourcefile(term)}:{inspect.getsourcelines(term)[1]}"
    faults = list(_declaration_faults(name))
    done = ["declaration"]
    if not faults:
        done = list(CHECKS)
        try:
            faults += _behaviour_faults(name)
        except Exception as error:  # whatever a term does wrong is a finding, not a crash of the check
            faults.append(("runs", with_place(error, inspect.getsourcefile(term))))
            done = done[:2]
    findings = [
        Finding(CHECKS[check], not any(c == check for c, _ in faults), "; ".join(text for c, text in faults if c == check))
        for check in done
    ]
    return StrategyReport(f"loss term {name}", origin, tuple(findings))


def _declaration_faults(name: str) -> Iterator[tuple[str, str]]:
    check = "declaration"
    if name not in registered_terms():
        if not TERMS[name].__doc__:
            yield check, "give the function a docstring: the formula, and the shape of what it returns"
        return
    term = registered_terms()[name]
    if not term.__doc__ or term.__call__ is LossTerm.__call__:
        yield check, "give the class a docstring with the formula, and a method __call__(self, inputs) that returns [batch]"
    try:
        term.Options()
    except ValidationError as error:
        yield check, f"every option needs a valid default: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}"
    for option, field in term.Options.model_fields.items():
        if not field.description:
            yield check, f"put a string that says what it does under the option `{option}`"
    try:
        needs_of_terms(Needs(terms=(name,)))
    except TermError as error:
        yield check, str(error)


def _behaviour_faults(name: str) -> Iterator[tuple[str, str]]:
    needs = Needs(terms=(name,))
    world = World(needs, 1)
    terms = LossTerms(needs, world.term_setup())
    model = world.model.eval()
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]

    def values(rows: np.ndarray) -> Tensor:
        batch = world.fit.batch(rows, len(rows), torch.device("cpu"))
        outputs = run_batch(model, batch, terms.needs.student_features, terms.needs.student_layers)
        inputs = TermInputs(
            outputs.logits.float(),
            batch.teacher_logits,
            batch.labels,
            TermShape(TEMPERATURE),
            student_features=outputs.features,
            teacher_features=batch.teacher_features,
            student_layers=outputs.layers,
            student_parts=outputs.parts,
            batch=batch,
        )
        return terms(inputs)[name]

    def total(found: Tensor) -> Tensor:  # with unequal weights: a term that is normalised over the batch has a fixed sum
        return (found * torch.linspace(1, 2, BATCH)).sum()

    rows = np.arange(BATCH)
    before = torch.get_rng_state()
    found = values(rows)
    drew = not torch.equal(before, torch.get_rng_state())
    if not isinstance(found, Tensor) or found.dim() not in (1, 2) or found.shape[-1] != BATCH:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        yield (
            "shape",
            f"a batch of {BATCH} samples gave {shape}. Return [batch], or [rows, batch] where each row is a term of its own; "
            "the harness takes the mean, with the strategy's weights",
        )
        return
    if not found.isfinite().all():
        yield "finite", "a value is not finite. Look for a logarithm or a division of what can be 0; use log_softmax on logits"
        return
    if drew or not torch.equal(found, values(rows)):
        yield (
            "determinism",
            "two passes on one batch differ, or torch's generator was drawn from. Draw what is random once, in __init__, "
            "from a generator seeded by setup.seed: a look-ahead compares two passes",
        )
        return
    gradient = torch.autograd.grad(total(found), parameters, allow_unused=True) if found.requires_grad else ()
    if all(g is None or not g.any() for g in gradient):
        yield (
            "gradient",
            "the student has no gradient of it. Compute it from inputs.student_..., without detach() and no_grad()",
        )
        return
    if not terms.needs.bypasses_head and any(g is None for g in gradient):
        yield (
            "gradient",
            "it leaves parameters of the student without a gradient, as it does not come through inputs.student_logits. Where "
            "that is meant, declare TermNeeds(bypasses_head=True): several workers need to know",
        )
    with torch.no_grad():
        alone = torch.cat([values(rows[i : i + 2]) for i in range(0, BATCH, 2)], -1)
        apart = torch.allclose(alone, found, rtol=TOLERANCE, atol=TOLERANCE)
    if not apart and not terms.needs.whole_batch:
        yield (
            "samples apart",
            "a sample's value changes with the other samples of its batch. Where that is meant, declare TermNeeds(whole_batch="
            "True) and gather them over ranks with inputs.ranks; else do not reduce or normalise over the batch",
        )
    if not terms.needs.stops_gradient:
        yield from _look_ahead_faults(lambda: total(values(rows)), gradient, parameters)


def _look_ahead_faults(
    total: Callable[[], Tensor],
    gradient: tuple[Tensor | None, ...],
    parameters: list[Tensor],
) -> Iterator[tuple[str, str]]:
    """Along the gradient, where the derivative is as large as it can be."""
    directions = [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, parameters, strict=True)]
    slope = float(torch.stack([d.square().sum() for d in directions]).sum())
    start = [p.detach().clone() for p in parameters]

    def difference(step: float) -> float:
        totals = []
        with torch.no_grad():
            for sign in (1, -1):
                torch._foreach_copy_(parameters, torch._foreach_add(start, directions, alpha=sign * step))
                totals.append(float(total()))
            torch._foreach_copy_(parameters, start)
        return (totals[0] - totals[1]) / (2 * step)

    nearest = min((difference(radius / slope**0.5) for radius in RADII), key=lambda found: abs(found - slope))
    if abs(nearest - slope) > 0.05 * slope:
        yield (
            "look-ahead",
            f"along its gradient it rises by {nearest:.3g} where the gradient says {slope:.3g}: a part of it is held still "
            "(detach, a rounding, a choice). Let the gradient through, or declare TermNeeds(stops_gradient=True), which keeps "
            "finite differences away from it",
        )
