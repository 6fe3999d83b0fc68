"""Set-ups and contexts for tests of strategies: random logits, real loss terms, and influences that a test chooses.

setup = make_setup(classes=3, teachers=1)
strategy = make("wsl", setup, kd_weight=2.0)
weights = weigh(strategy, make_context(setup, step=4))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.loss_terms.logit_terms import TERMS, TermInputs, compute_terms
from harness.loss_terms.registry import registered_terms, term_options
from strategies import Context, RoleView, Setup, Strategy, TermShape, Weights, resolve


def make_setup(
    *,
    classes: int = 3,
    teachers: int = 1,
    rows: int = 48,
    meta_rows: int = 16,
    epochs: int = 4,
    steps_per_epoch: int = 5,
    temperature: float = 2.0,
    hidden: int = 6,
    seed: int = 0,
) -> Setup:
    """A task of `rows` training rows (ids 100, 103, 106, ...) whose teachers are right more often than not."""
    return Setup(
        classes=classes,
        teachers=tuple(f"teacher{k}" for k in range(teachers)),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        temperature=temperature,
        fit=_role(rows, classes, teachers, seed, first_id=100),
        meta=_role(meta_rows, classes, teachers, seed + 1, first_id=100_000),
        student_hidden_size=hidden,
        teacher_hidden_sizes=(hidden,) * teachers,
        seed=seed,
        device=torch.device("cpu"),
    )


def _role(rows: int, classes: int, teachers: int, seed: int, first_id: int) -> RoleView:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    logits = 1.5 * torch.randn(teachers, rows, classes, generator=generator)
    logits += 1.5 * F.one_hot(labels, classes)
    return RoleView(ids=first_id + 3 * torch.arange(rows), labels=labels, teacher_logits=logits)


def make_context(
    setup: Setup,
    *,
    terms: tuple[str, ...] = ("ce", "kd"),
    step: int = 0,
    batch: int = 8,
    seed: int = 0,
    rows: Tensor | None = None,
    shape: TermShape | None = None,
    influence: Mapping[str, Tensor] | Callable[[Weights | None], dict[str, Tensor]] | None = None,
    gramian: Tensor | None = None,
    replay: Callable[[Tensor | None], Tensor] | None = None,
    learning_rate: float = 0.1,
    **changes: Any,
) -> Context:
    """The context of one step on `rows` of `setup.fit` (random ones where not given).

    `influence`: what the look-ahead returns, by term, or a function of the weights it is asked about. `changes`: fields of
    Context to set, e.g. `student_logits=...`; the terms are computed from the changed logits unless `terms_override` is given.
    """
    generator = torch.Generator().manual_seed(1000 * seed + step)
    fit = setup.fit
    if rows is None:
        rows = torch.randperm(len(fit.ids), generator=generator)[:batch]
    override = changes.pop("terms_override", None)
    total = max(1, setup.total_steps - 1)
    context = Context(
        step=step,
        epoch=step // setup.steps_per_epoch,
        progress=min(1.0, step / total),
        learning_rate=learning_rate,
        temperature=setup.temperature,
        ids=fit.ids[rows],
        labels=fit.labels[rows],
        student_logits=2.0 * torch.randn(len(rows), setup.classes, generator=generator),
        teacher_logits=fit.teacher_logits[:, rows],
        terms={},
        generator=torch.Generator().manual_seed(seed + 7919 * step),
        student_features=torch.randn(len(rows), setup.student_hidden_size, generator=generator),
        teacher_features=tuple(torch.randn(len(rows), size, generator=generator) for size in setup.teacher_hidden_sizes),
        look_ahead=None if influence is None else _look_ahead(influence),
        term_gramian=None if gramian is None else lambda: gramian,
        replay=replay,
    )
    context = replace(context, **changes)
    shape = shape or TermShape(temperature=setup.temperature)
    return replace(context, terms=override if override is not None else loss_terms(terms, context, shape))


def _look_ahead(influence: Any) -> Any:
    if callable(influence):
        return lambda weights=None, ids=None: influence(weights)
    return lambda weights=None, ids=None: dict(influence)


def loss_terms(
    names: tuple[str, ...], context: Context, shape: TermShape, options: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Tensor]:
    """The harness's own terms of a context, each [batch], per-teacher ones [teachers, batch].

    Of the terms that are classes, those of logits alone.
    """
    options = options or {}
    inputs = TermInputs(
        student_logits=context.student_logits,
        teacher_logits=context.teacher_logits,
        labels=context.labels,
        shape=shape,
        student_features=context.student_features,
        teacher_features=context.teacher_features,
    )
    found = {}
    for name in names:
        if name in TERMS:
            found.update(compute_terms([name], inputs, options))
        else:
            found[name] = registered_terms()[name](term_options(name, options.get(name, {})), cast(Any, None))(inputs)
    return found


def make(name: str, setup: Setup, **settings: Any) -> Strategy[Any]:
    """The strategy that a study calls `name`, with these settings."""
    registered = resolve(name)
    return registered.create(registered.settings(settings), setup)


def weigh(strategy: Strategy[Any], context: Context) -> dict[str, Tensor]:
    """The strategy's weights, as float tensors in the terms' shapes."""
    given = strategy.weights(context)
    assert set(given) == set(context.terms), f"weights for {sorted(given)}, terms {sorted(context.terms)}"
    return {name: torch.as_tensor(given[name], dtype=torch.float32).expand(t.shape) for name, t in context.terms.items()}


def steps(setup: Setup, n: int, **options: Any) -> Iterator[Context]:
    """The contexts of the first n steps."""
    for step in range(n):
        yield make_context(setup, step=step, **options)


def random_influence(context_seed: int, batch: int = 8, names: tuple[str, ...] = ("ce", "kd")) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(context_seed)
    return {name: torch.randn(batch, generator=generator) for name in names}
