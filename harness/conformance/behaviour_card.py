"""What a strategy's weights go with: rank correlations on one small task, and the directions that its source claims."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from tabulate import tabulate
from torch import Tensor

from harness.conformance.behaviour import teacher_counts
from harness.conformance.tiny_training import World
from harness.loss_terms.registry import registered_terms
from strategies.base import Context
from strategies.registry import Registered

ROWS, BATCH, FLIPPED = 96, 16, 0.25
"""Of the task: rows to train on, rows of a batch, share of flipped labels."""
MEASURES = {
    "teacher confidence": "the teacher's highest probability",
    "teacher agreement": "the teacher's probability of the label",
    "student confidence": "the student's highest probability",
    "student loss": "its cross-entropy",
    "flipped label": "1 where the label was flipped",
    "frequent words": "mean logarithm of how often the sample's words occur in the training rows",
}
LEAST = 0.1
"""A claimed rank correlation is at least as large as this."""


@dataclass(frozen=True)
class BehaviourCard:
    relations: dict[str, dict[str, float | None]]
    """Term -> measure -> Spearman's rank correlation of its weight with the measure within a batch (of a term per teacher: over
    teachers and samples), mean over the batches of a training; None where one of them never varies."""

    def __str__(self) -> str:
        rows = [
            [term, *("–" if found[m] is None else f"{found[m]:+.2f}" for m in MEASURES)]
            for term, found in self.relations.items()
            if any(value is not None for value in found.values())
        ]
        if not rows:
            return "weights: the same for all samples of a batch"
        return "rank correlation of weights with:\n" + tabulate(rows, ["weight of", *MEASURES], disable_numparse=True)


def behaviour_card(registered: Registered) -> BehaviourCard:
    """From a training of seconds with default settings; what it raises is the strategy's."""
    settings = registered.settings()
    needs = registered.needs(settings)
    world = World(needs, max(teacher_counts(needs)), rows=ROWS, batch=BATCH, flipped=FLIPPED)
    trace = world.run(lambda: registered.create(settings, world.setup))
    found: dict[str, dict[str, list[float]]] = {term: {m: [] for m in MEASURES} for term in needs.terms}
    for step, context in zip(trace.weights, trace.contexts, strict=True):
        measures = _measures(world, context)
        for term, weight in step.items():
            values = _effective(term, weight, context)
            wide = values.dim() == 2 and len(values) == len(context.teacher_logits)
            one = values if wide else values.reshape(-1, values.shape[-1]).sum(0)
            beside = [m.expand(one.shape) if wide else m.reshape(-1, one.shape[-1]).mean(0) for m in measures.values()]
            for name, correlation in zip(measures, _spearman(one, beside), strict=True):
                if correlation is not None:
                    found[term][name].append(correlation)
    return BehaviourCard(
        {term: {m: float(np.mean(v)) if v else None for m, v in by_measure.items()} for term, by_measure in found.items()}
    )


def claim_faults(registered: Registered, card: BehaviourCard) -> Iterator[tuple[str, str]]:
    """("claims", what is wrong) for each claim of the docstring that the weights do not keep."""
    try:
        claims = registered.claims
    except ValueError as error:
        yield "claims", str(error)
        return
    for claim in claims:
        for kind, given, known in (("term", claim.term, card.relations), ("measure", claim.measure, MEASURES)):
            if given not in known:
                near = difflib.get_close_matches(given, known, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                yield (
                    "claims",
                    f"the docstring claims that {claim}; there is no {kind} {given!r}.{hint} There are: {', '.join(known)}",
                )
                break
        else:
            value = card.relations[claim.term][claim.measure]
            if value is None or claim.sign * value < LEAST:
                shown = "none" if value is None else f"{value:+.2f}"
                yield (
                    "claims",
                    f"the docstring claims that {claim}, and the rank correlation is {shown} in a small training. Look for a "
                    "direction that is turned round; where the source has it so, correct the claim",
                )


def _measures(world: World, context: Context) -> dict[str, Tensor]:
    """Each [batch], or [teachers, batch] where teachers differ."""
    teachers, student = context.teacher_logits.softmax(-1), context.student_logits.softmax(-1)
    rows = world.fit.encoded.rows_of(context.ids.numpy())
    flipped = world.fit.encoded.flipped
    assert flipped is not None
    chosen = context.labels.unsqueeze(-1)
    return {
        "teacher confidence": teachers.amax(-1),
        "teacher agreement": teachers.gather(-1, chosen.expand(len(teachers), -1, 1)).squeeze(-1),
        "student confidence": student.amax(-1),
        "student loss": -student.gather(-1, chosen).squeeze(-1).log(),
        "flipped label": torch.from_numpy(flipped[rows].astype(np.float32)),
        "frequent words": torch.from_numpy(_frequency(world)[rows]),
    }


def _frequency(world: World) -> np.ndarray:
    """[rows]."""
    encoded = world.fit.encoded
    tokens = encoded.tokens.reshape(len(encoded.ids), -1)
    frequency: np.ndarray = np.log(np.bincount(encoded.tokens).clip(1))[tokens].mean(1)
    return frequency


def _effective(term: str, weight: Tensor, context: Context) -> Tensor:
    """The weight; of a term that is a plain one times a number a sample, of the plain one."""
    scales = registered_terms()[term].scales if term in registered_terms() else None
    if scales is None or scales not in context.terms:
        return weight
    return weight * context.terms[term] / context.terms[scales].clamp_min(1e-12)


def _spearman(weights: Tensor, measures: list[Tensor]) -> list[float | None]:
    """Of the weights with each of the measures, all of one shape; None where either never varies."""
    one, *others = (values.double().flatten().numpy() for values in (weights, *measures))
    varies = bool(np.isfinite(one).all() and np.ptp(one) > 1e-6 * np.abs(one).max())  # another check says what is not finite
    ranks = rankdata(np.stack([one.round(9), *others]), axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    products = ranks @ ranks[0]
    return [
        float(product / np.sqrt(products[0] * (mine @ mine))) if varies and np.isfinite(other).all() and np.ptp(other) else None
        for other, mine, product in zip(others, ranks[1:], products[1:], strict=True)
    ]
