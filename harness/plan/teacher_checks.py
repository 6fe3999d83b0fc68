"""Whether strategies can run among the teachers that a study gives them. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from harness.study.schema import TeacherSpec
from strategies.base import Settings
from strategies.registry import Registered
from strategies.space import Choice, Range


def sizes_in_the_study(teachers: Iterable[TeacherSpec]) -> dict[str, int | None]:
    """Teacher name -> size of its pooled vector, where the study gives the model's configuration; else None."""
    return {teacher.name: (teacher.config or {}).get("hidden_size") for teacher in teachers}


def teacher_refusal(
    strategy: Registered, settings: Settings, space: Mapping[str, Range], sizes: Mapping[str, int | None]
) -> str | None:
    """Why the strategy cannot run among these teachers, with its settings or with a choice that its search can reach."""
    for one in (settings, *_reached(settings, space)):
        if reason := strategy.refuses_teachers(one, sizes):
            return f"strategy {strategy.name!r}: {reason}"
    return None


def _reached(settings: Settings, space: Mapping[str, Range]) -> Iterator[Settings]:
    for name, one in space.items():
        if isinstance(one, Choice) and name in type(settings).model_fields:
            for value in one.values:
                yield type(settings).model_validate({**settings.model_dump(), name: value})
