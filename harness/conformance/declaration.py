"""What a strategy says of itself: names, settings, search space, needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from harness.loss_terms import TermError, needs_of_terms
from strategies.base import Cost, Normalisation, Settings, Strategy
from strategies.registry import FIDELITY, Registered
from strategies.space import Choice

TEXTS = ("name", "family", "summary", "paper")


def declaration_faults(registered: Registered) -> Iterator[tuple[str, str]]:
    """(check, what to change) for each mistake."""
    cls = registered.strategy
    yield from (("declaration", fault) for fault in _attribute_faults(cls))
    yield from (("settings", fault) for fault in _settings_faults(cls.Settings))
    yield from (("search space", fault) for fault in _search_space_faults(cls.Settings))
    yield from (("needs", fault) for fault in _needs_faults(registered))
    yield from (("fidelity", fault) for fault in _fidelity_faults(registered))


def _attribute_faults(cls: type[Strategy[Any]]) -> Iterator[str]:
    for attribute in TEXTS:
        if not isinstance(getattr(cls, attribute, None), str) or not getattr(cls, attribute):
            yield f"set the class attribute `{attribute}` to a text; tables and `list strategies` show it"
    if not isinstance(getattr(cls, "sample_wise", None), bool):
        yield "set the class attribute `sample_wise` to True or False"
    if not isinstance(getattr(cls, "normalisation", None), Normalisation):
        yield f"set the class attribute `normalisation` to one of {', '.join(f'Normalisation.{n.name}' for n in Normalisation)}"
    if not isinstance(cls.cost, Cost):
        yield f"set the class attribute `cost` to one of {', '.join(f'Cost.{cost.name}' for cost in Cost)}"


def _settings_faults(settings: type[Settings]) -> Iterator[str]:
    try:
        settings()
    except ValidationError as error:
        yield f"every setting needs a valid default, so that trial 0 can run: {_first(error)}"
    for name, field in settings.model_fields.items():
        if not field.description:
            yield f"put a string that says what it does under the setting `{name}`"


def _search_space_faults(settings: type[Settings]) -> Iterator[str]:
    for name, space in settings.search_space.items():
        if name not in settings.model_fields:
            yield f"search_space names {name!r}, which is no setting; the settings are {', '.join(settings.model_fields)}"
            continue
        for value in space.values if isinstance(space, Choice) else (space.low, space.high):
            try:
                settings.model_validate({name: value})
            except ValidationError as error:
                yield f"search_space lets {name!r} be {value!r}, which the setting does not take: {_first(error)}"


def _needs_faults(registered: Registered) -> Iterator[str]:
    try:
        needs = registered.needs(registered.settings())
    except ValidationError:
        return  # said by the settings already
    if not needs.terms:
        yield "needs() declares no loss term; there would be nothing to train on"
    try:
        needs_of_terms(needs)
    except TermError as error:
        yield str(error)
    if needs.look_ahead is not None and registered.strategy.cost is not Cost.LOOK_AHEAD:
        yield "needs() asks for the look-ahead; declare cost = Cost.LOOK_AHEAD"


def _fidelity_faults(registered: Registered) -> Iterator[str]:
    """A strategy that names a paper has to say how true it is to it; those of this package, in any case."""
    said, paper = registered.fidelity, str(getattr(registered.strategy, "paper", ""))
    if said is None and (re.search(r"\b(19|20)\d\d\b", paper) or registered.strategy.__module__.startswith("strategies.")):
        yield (
            "end the class's docstring with a paragraph that begins with one of "
            f"{', '.join(repr(start) for start in FIDELITY)}: what differs from the paper and why, or that nothing does"
        )
    elif said is not None and said.startswith("Differs") and " because " not in said:
        yield f"say why: the docstring's {said[:60]!r}... has no `because`"


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    return f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
