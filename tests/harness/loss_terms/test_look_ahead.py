"""The look-ahead sees further terms as it sees the plain ones: all engines agree with the double backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from harness.conformance.tiny_training import BATCH, CLASSES, FIT_ROWS, TEMPERATURE, World
from harness.data.batches import MetaBatches
from harness.loss_terms.bound import LossTerms
from harness.ranks import Single
from harness.training.weighting import Weighting
from strategies.base import Context, Needs, Normalisation, Settings, Strategy, Weights

FURTHER = (
    "ce",
    "kd",
    "layer_kd",
    "relational_kd",
    "word_kd",
    "part_kd",
    "part_kd_each",
    "noisy_kd",
    "reverse_kl",
    "skew_kl",
    "alpha_beta",
    "dist_intra",
)


class Nothing(Strategy[Settings]):
    name, family, summary, paper, sample_wise = "nothing", "test", "test", "none", False
    normalisation = Normalisation.FREE

    def weights(self, context: Context) -> Weights:
        return dict.fromkeys(context.terms, 1.0)


def weighting(engine: Any, **options: Any) -> tuple[World, Weighting]:
    needs = Needs(terms=FURTHER, look_ahead=engine, look_ahead_options=options)
    world = World(needs, 2)
    made = Weighting(
        world.model,
        Nothing(Settings(), world.setup),
        needs,
        world.fit,
        world.meta,
        Single(),
        lambda forward=0, backward=0: None,
        temperature=TEMPERATURE,
        meta_batches=MetaBatches(world.meta.encoded.lengths, BATCH, 3),
        precision="fp32",
        terms=LossTerms(needs, world.term_setup()),
    )
    return world, made


def influence(engine: Any, weights: Any = None, micro_batches: int = 1, **options: Any) -> dict[str, torch.Tensor]:
    world, made = weighting(engine, **options)
    for student in made.students:
        student.micro_batches = micro_batches
    rows = np.arange(BATCH)
    batch = world.fit.batch(rows, BATCH, torch.device("cpu"), epoch=1)
    assert made._look_ahead is not None
    made._look_ahead.forward_pass(2, 0.1)
    return made._look_ahead.function(batch, None)(weights)


@pytest.mark.parametrize("engine", ["jvp", "fd"])
@pytest.mark.parametrize("meta_kd_weight", [0.0, 1.0])
def test_engines_agree_on_further_terms(engine: str, meta_kd_weight: float) -> None:
    weights = dict.fromkeys(FURTHER, 0.3)
    exact = influence("exact", weights, meta_kd_weight=meta_kd_weight)
    # a longer difference: layer_kd's influence is hundreds of times smaller than the others', near rounding
    found = influence(engine, weights, meta_kd_weight=meta_kd_weight, radius=1e-2)
    assert list(found) == list(FURTHER)
    assert found["part_kd_each"].shape == (2, BATCH)
    for name in FURTHER:
        assert float(exact[name].abs().max()) > 0, name
        cosine = F.cosine_similarity(found[name].flatten(), exact[name].flatten(), dim=0)
        assert float(cosine) > 0.999, name


@pytest.mark.parametrize("engine", ["exact", "fd"])
def test_micro_batches_do_not_change_what_is_seen(engine: str) -> None:
    """Terms that compare the samples of the batch included: parts are joined before any term is computed."""
    weights = dict.fromkeys(FURTHER, 0.3)
    whole, split = influence(engine, weights), influence(engine, weights, micro_batches=3)
    for name in FURTHER:
        cosine = F.cosine_similarity(split[name].flatten(), whole[name].flatten(), dim=0)
        assert float(cosine) > 0.999, name


def test_a_term_s_influence_is_what_a_step_on_it_does_to_the_meta_loss() -> None:
    """For a term of relations too, whose samples depend on each other: by differences along its batch mean's gradient."""
    world, made = weighting("exact")
    found = influence("exact")
    assert len(world.fit) == FIT_ROWS
    assert world.setup.classes == CLASSES
    rows = np.arange(BATCH)
    batch = world.fit.batch(rows, BATCH, torch.device("cpu"), epoch=1)
    meta = world.meta.batch(MetaBatches(world.meta.encoded.lengths, BATCH, 3).at(2), BATCH, torch.device("cpu"))
    from harness.models.build import run_batch, run_model

    model = world.model.eval()
    parameters = list(model.parameters())

    def meta_loss() -> torch.Tensor:
        return F.cross_entropy(run_model(model, meta.inputs).logits, meta.labels)

    gradient = torch.autograd.grad(meta_loss(), parameters, allow_unused=True)
    terms = made._terms(run_batch(model, batch, True, True), batch, Nothing(Settings(), world.setup).shape_terms(_at(world)))
    for name in FURTHER:
        own = torch.autograd.grad(terms[name].sum(), parameters, retain_graph=True, allow_unused=True)
        product = sum(float((a * b).sum()) for a, b in zip(gradient, own, strict=True) if a is not None and b is not None)
        assert float(found[name].sum()) == pytest.approx(product, rel=1e-3, abs=1e-6), name


def _at(world: World) -> Context:
    nothing = torch.zeros(0)
    return Context(0, 0, 0.0, 0.1, TEMPERATURE, nothing, nothing, nothing, nothing, {}, torch.Generator())
