"""Where loss terms are registered, and what those of one strategy need together. No torch."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from harness.data.output_names import FEATURES
from harness.loss_terms.base import LossTerm, TermNeeds, TermOptions
from strategies.base import LookAheadChoice, LookAheadEngine, LookAheadStep, Needs

PLAIN = ("ce", "kd", "kd_each", "mse_logits", "tckd", "nckd", "standardised_kd")
"""The terms that are functions of logits and labels (`harness.loss_terms.logit_terms`)."""
_OF_THE_LEVEL = {"mse_logits"}
"""Plain terms with `TermNeeds.logit_level`."""
FASTEST: dict[tuple[str, str], tuple[LookAheadEngine, ...]] = {
    ("cpu", "fp32"): ("fd", "jvp", "exact"),
    ("cpu", "bf16"): ("jvp", "fd", "exact"),
    ("gpu", "fp32"): ("fd", "jvp", "exact"),
    ("gpu", "bf16"): ("jvp", "fd", "exact"),
}
"""Look-ahead engines by kind of device and precision, the fastest first: what `auto` chooses from.

A table and not a few steps that each trial measures, because engines round differently: a choice by the clock would make a
trial's numbers hang on what else its machine did, and differ between two runs of one study, before and after a break, and
between the ranks of one trial. The benchmark `step` measures the lines of a CPU, `gpu` those of a GPU, which go by counts of
passes so far: in half precision a difference takes passes of its own in full precision.
"""
_NOT_TERMS = {"base", "registry", "bound", "losses", "logit_terms", "gramian", "parts"}
_terms: dict[str, type[LossTerm[Any]]] = {}

C = TypeVar("C", bound=type[LossTerm[Any]])


class TermError(ValueError):
    """A loss term that does not exist, is given options that it does not take, or does not go with another one."""


def register_term(cls: C) -> C:
    """Class decorator: make a loss term available under its `name`. Raises ValueError for a name that is taken or no name."""
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise ValueError(f"{_origin(cls)}: a loss term needs a class attribute `name` of letters, digits and _, got {name!r}")
    known = _terms.get(name)
    if name in PLAIN or (known is not None and _origin(known) != _origin(cls)):
        there = _origin(known) if known else "harness/loss_terms/logit_terms.py"
        raise ValueError(f"the loss term name {name!r} is taken twice: by {there} and by {_origin(cls)}")
    if not isinstance(getattr(cls, "summary", None), str):
        raise ValueError(f"{_origin(cls)}: the loss term {name!r} needs a class attribute `summary`, one line of text")
    _terms[name] = cls
    return cls


def registered_terms() -> dict[str, type[LossTerm[Any]]]:
    """The loss terms that are classes, by name."""
    load_builtin_terms()
    return _terms


def term_names() -> list[str]:
    """All loss terms, plain ones included."""
    plugged = sys.modules.get("harness.loss_terms.logit_terms")  # who adds a plain function to its table has imported it
    return sorted({*PLAIN, *registered_terms(), *(getattr(plugged, "TERMS", {}))})


@cache
def load_builtin_terms() -> None:
    """Import every module of this package."""
    package = importlib.import_module("harness.loss_terms")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name not in _NOT_TERMS:
            importlib.import_module(f"harness.loss_terms.{module.name}")


def term_options(name: str, given: Mapping[str, Any]) -> TermOptions:
    """The validated options of a registered term. Raises TermError."""
    options = registered_terms()[name].Options
    try:
        return options.model_validate(dict(given))
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        allowed = ", ".join(options.model_fields) or "none"
        raise TermError(f"loss term {name!r}, option {where!r}: {detail['msg']}. Options: {allowed}") from error


def needs_of_terms(needs: Needs) -> TermNeeds:
    """All that a strategy and its loss terms need of rows, passes and caches, together. Raises TermError."""
    check_names(needs.terms)
    classes = registered_terms()
    of = {
        name: classes[name].needs(term_options(name, needs.term_options.get(name, {}))) if name in classes else TermNeeds()
        for name in needs.terms
    }
    own = TermNeeds(student_features=needs.student_features, teacher_outputs=(FEATURES,) * needs.teacher_features)
    found = [own, *of.values()]
    drops = {one.word_drop for one in found if one.word_drop}
    if len(drops) > 1:
        raise TermError(f"two loss terms want different shares of words dropped from the student's inputs: {sorted(drops)}")
    return TermNeeds(
        student_features=any(one.student_features for one in found),
        student_layers=any(one.student_layers for one in found),
        parts=any(one.parts for one in found),
        teacher_outputs=tuple(sorted({name for one in found for name in one.teacher_outputs})),
        word_drop=max(drops, default=0.0),
        whole_batch=any(one.whole_batch for one in found),
        stops_gradient=any(one.stops_gradient for one in found),
        logit_level=not _OF_THE_LEVEL.isdisjoint(needs.terms) or any(one.logit_level for one in found),
        bypasses_head=bool(of) and all(one.bypasses_head for one in of.values()),
        same_architecture=any(one.same_architecture for one in found),
    )


def look_ahead_refusal(needs: TermNeeds, engine: str | None, workers: int) -> str | None:
    """Why the look-ahead cannot differentiate such terms on so many ranks; None where it can."""
    if engine == "auto":
        refusals = [look_ahead_refusal(needs, one, workers) for one in get_args(LookAheadEngine)]
        return refusals[0] if all(refusals) else None
    if needs.stops_gradient and engine == "fd":
        return (
            "a loss term holds a part of itself still for the gradient, which the look-ahead engine 'fd', a difference of "
            "values, does not see. Use the engine 'jvp' or 'exact', or let the gradient through "
            "(layer_kd: attention_gradient: true)"
        )
    if not needs.whole_batch or engine in (None, "fd") or workers == 1:
        return None
    return (
        f"a loss term that compares the samples of a batch gathers them over {workers} workers, which the look-ahead engine "
        f"{engine!r} cannot differentiate. Use the engine 'fd', or one worker"
    )


def step_refusal(options: Mapping[str, Any]) -> str | None:
    """Why a look-ahead cannot take the step of `Needs.look_ahead_options` with the others of them; None where it can."""
    step, steps = options.get("step", "sgd"), get_args(LookAheadStep)
    if step not in steps:
        return f"there is no look-ahead step {step!r}; there are {', '.join(steps)}"
    if step != "sgd" and options.get("layers") is not None:
        return (
            f"the look-ahead step {step!r} is of all parameters, since the norm of their gradient clips it, and the look-ahead "
            f"is to move the last {options['layers']} layers alone. Use the step 'sgd', or all layers"
        )
    if step != "sgd" and options.get("precondition") not in (None, "none"):
        return f"the look-ahead step {step!r} has Adam's root mean square in it. Use it without `precondition`"
    return None


def look_ahead_engine(needs: TermNeeds, engine: LookAheadChoice, workers: int, precision: str, device: str) -> LookAheadEngine:
    """What `engine` means for such terms on so many ranks. `auto`: the first of `FASTEST` that the terms allow.

    `device` is cpu, or a type of GPUs. Raises ValueError where `auto` finds none.
    """
    if engine != "auto":
        return engine
    reason = look_ahead_refusal(needs, engine, workers)
    if reason is not None:
        raise ValueError(reason)
    engines = FASTEST["cpu" if device == "cpu" else "gpu", precision]
    return next(one for one in engines if look_ahead_refusal(needs, one, workers) is None)


def check_names(names: Sequence[str]) -> None:
    """Raises TermError for a term that is unknown or named twice."""
    known = term_names()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TermError(f"there is no loss term {name!r}.{hint} Known terms: {', '.join(known)}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise TermError(f"the loss term {twice[0]!r} is named twice")


def pass_refusal(needs: Needs) -> str:
    """Why a training with such a strategy is more than one pass to the logits and back in each step; empty where it is not."""
    wanted = needs_of_terms(needs)
    for what, given in (
        ("looks ahead", needs.look_ahead is not None),
        ("needs gradients of its terms", needs.term_gramian),
        ("reads hidden states", wanted.student_features or wanted.student_layers),
        ("has terms that do not go through the logits", wanted.bypasses_head),
    ):
        if given:
            return what
    return ""


def graphs_refusal(needs: Needs, workers: int, gpu: bool) -> str:
    """Why a training takes no CUDA graphs (`training.compile: graphs`); empty where it may."""
    if not gpu:
        return "runs on a CPU"
    return "has several workers" if workers > 1 else pass_refusal(needs)


def _origin(cls: type) -> str:
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return f"{cls.__module__}.{cls.__qualname__}"
