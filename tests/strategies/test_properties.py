"""What holds for every built-in strategy, over random contexts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conformance import check
from harness.loss_terms.registry import PLAIN
from strategies import Normalisation, resolve, strategy_names, wrapper_names
from strategies.base import Cost
from strategies.registry import load_builtin_strategies
from tests.conftest import first_of_each
from tests.strategies.contexts import make_context, make_setup, weigh

load_builtin_strategies()
NAMES = [name for name in strategy_names() if resolve(name).strategy.__module__.startswith("strategies.")]
OF_LOGITS = {"reverse_kl", "alpha_beta", "todi_kl", "transformed_teacher", "dynamic_temperature_kd", "interpolated_ce"}
OF_LOGITS |= {"bidirectional_kl"}
CLASSES = st.sampled_from([2, 3, 5])
INFLUENCES = st.sampled_from([1.0, 1e-9, 1e6])


def teachers_of(name: str) -> int:
    fewest, most = needs_of(name).teachers
    return max(fewest, 1 if most == 1 else 2)


def needs_of(name: str):
    return resolve(name).needs(resolve(name).settings())


def runnable(name: str) -> bool:
    """Whether a made-up context has all that the strategy asks for; the conformance tests cover the others."""
    needs = needs_of(name)
    return set(needs.terms) <= {*PLAIN, *OF_LOGITS}


def context_for(name, setup, seed, scale=1.0, **options):
    needs = needs_of(name)
    generator = torch.Generator().manual_seed(seed)
    terms = needs.terms
    if needs.look_ahead is not None:
        base = make_context(setup, terms=terms, seed=seed, **options)
        shape = {term: scale * torch.randn(values.shape, generator=generator) for term, values in base.terms.items()}
        options["influence"] = shape
    rows = sum(len(setup.teachers) if term == "kd_each" else 1 for term in terms)
    jacobian = torch.randn(rows, 6, generator=generator)
    if needs.replay:
        options["replay"] = lambda ids: torch.randn(
            len(setup.meta.ids) if ids is None else len(ids), setup.classes, generator=torch.Generator().manual_seed(seed)
        )
    return make_context(setup, terms=terms, seed=seed, gramian=jacobian @ jacobian.T, **options)


def created(name, setup):
    registered = resolve(name)
    values = {"two_classes": "allow"} if "two_classes" in registered.strategy.Settings.model_fields else {}
    return registered.create(registered.settings(values), setup)


@pytest.mark.parametrize("name", [name for name in NAMES if runnable(name)])
@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), classes=CLASSES, scale=INFLUENCES, loud=st.sampled_from([1.0, 30.0]))
def test_weights_are_finite_and_keep_their_promise(name, seed, classes, scale, loud):
    """Also for logits so large that probabilities are exactly 0 and 1, and for tiny and huge influences."""
    setup = make_setup(classes=classes, teachers=teachers_of(name), seed=seed % 7)
    strategy = created(name, setup)
    for step in range(3):
        context = context_for(name, setup, seed, scale, step=step)
        context = context_for(name, setup, seed, scale, step=step, student_logits=loud * context.student_logits)
        weights = weigh(strategy, context)
        assert all(weight.isfinite().all() for weight in weights.values())
        total = sum(weight if weight.dim() == 1 else weight.sum(0) for weight in weights.values())
        promise = strategy.normalisation
        if promise is not Normalisation.FREE:
            assert all((weight >= -1e-5).all() for weight in weights.values())
        if promise is Normalisation.CONVEX:
            torch.testing.assert_close(total, torch.ones(8), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [name for name in NAMES if runnable(name)])
def test_logits_count_up_to_a_constant(name):
    """Adding a number to all logits of a sample changes no probability, so it changes no weight."""
    setup = make_setup(teachers=teachers_of(name))
    if "mse_logits" in needs_of(name).terms:
        pytest.skip("regression on logits sees the constant")
    context = context_for(name, setup, 1)
    shift = torch.linspace(-3, 3, 8).unsqueeze(-1)
    moved = replace(context, student_logits=context.student_logits + shift, teacher_logits=context.teacher_logits + 2.0)
    moved = replace(moved, generator=torch.Generator().manual_seed(0))
    context = replace(context, generator=torch.Generator().manual_seed(0))
    one, two = weigh(created(name, setup), context), weigh(created(name, setup), moved)
    torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_declarations_are_complete_without_torch(name):
    strategy = resolve(name).strategy
    assert strategy.__doc__
    for field, info in strategy.Settings.model_fields.items():
        assert info.description, field
    assert strategy.paper
    assert len(strategy.summary) <= 100


def test_reading_every_declaration_does_not_import_torch():
    import subprocess
    import sys

    code = (
        "import sys, strategies\n"
        "for n in strategies.strategy_names():\n"
        "    r = strategies.resolve(n); r.needs(r.settings()); r.refuses(r.settings(), 2); r.code_digest\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def built_in() -> list[str]:
    """With the wrappers, by declared cost: the first of a family is one of its cheapest."""
    own = sorted(NAMES, key=lambda name: list(Cost).index(resolve(name).strategy.cost))
    return own + [f"{wrapper}({inner})" for wrapper in wrapper_names() for inner in ("wsl", "rw_kd")]


@pytest.mark.parametrize("name", first_of_each({name: resolve(name).strategy.family for name in built_in()}))
def test_it_passes_every_conformance_check(name):
    report = check(name)
    assert report.passed, str(report)
