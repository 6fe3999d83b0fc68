"""What a strategy declares must hold for every choice that its settings offer, not for the defaults alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from harness.conformance.tiny_training import CLASSES, Trace, World
from strategies.base import Settings
from strategies.registry import Registered


def other_choices(settings: type[Settings]) -> Iterator[tuple[str, Settings]]:
    """("name = value", settings) for each value of a yes-or-no setting or a list of choices that is not the default.

    One setting at a time; a value that needs another setting to change with it is left out.
    """
    default = settings().model_dump()
    for name, field in settings.model_fields.items():
        kind: Any = field.annotation
        values = (False, True) if kind is bool else get_args(kind) if get_origin(kind) is Literal else ()
        for value in values:
            if value == default[name]:
                continue
            try:
                yield f"{name} = {value!r}", settings.model_validate({**default, name: value})
            except ValidationError:
                continue


def traces_of_choices(registered: Registered, teachers: int) -> Iterator[tuple[str, Settings, Trace | Exception]]:
    """A small training for each of the other choices that the strategy does not refuse, or what it raised."""
    for shown, settings in other_choices(registered.strategy.Settings):
        if registered.refuses(settings, CLASSES):
            continue
        world = World(registered.needs(settings), teachers)
        try:
            yield shown, settings, world.run(lambda s=settings, w=world: registered.create(s, w.setup))  # type: ignore[misc]
        except Exception as error:  # the strategy's mistake, whatever it is
            yield shown, settings, error
