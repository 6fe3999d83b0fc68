"""What pydantic found wrong, in a study's own words: what was given, what is allowed, the nearest match."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.study.yaml_lines import KeyPath


def faults(error: ValidationError, content: Any, model: type[BaseModel]) -> list[tuple[KeyPath, str]]:
    """(path of keys in `content`, text) of each fault."""
    return [(_path_in(content, _subject(e)), _message(e, _model_at(model, e["loc"][:-1]))) for e in _worth_saying(error)]


def nearest(given: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing."""
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _message(error: Any, model: type[BaseModel] | None) -> str:
    name, given, context = error["loc"][-1] if error["loc"] else "", error.get("input"), error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            allowed = list(model.model_fields) if model is not None else []
            return f"unknown key {name!r}.{nearest(str(name), allowed)} Allowed: {', '.join(allowed) or 'none'}"
        case "missing":
            return f"the key {name!r} is missing"
        case "literal_error":
            return _not_among(given, context["expected"])
        case "union_tag_invalid":
            return f"{context['discriminator']}: {_not_among(context['tag'], context['expected_tags'])}"
        case "union_tag_not_found":
            return f"the key {context['discriminator']} is missing: a range is of type float, int or choice"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"should be a mapping of keys, got {given!r}"
    text = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return text if isinstance(given, dict | list) else f"{text[0].lower()}{text[1:]}, got {given!r}"


def _not_among(given: Any, expected: str) -> str:
    allowed = re.findall(r"'([^']*)'", expected)
    return f"{given!r} is not allowed.{nearest(str(given), allowed)} Allowed: {', '.join(allowed)}"


def _worth_saying(error: ValidationError) -> list[Any]:
    """Faults of the union members that were not meant are noise: a mapping was no attempt at a string."""
    found: list[Any] = list(error.errors())
    meant = [
        fault
        for fault in found
        if not (fault["type"] == "string_type" and fault["loc"][-1:] == ("str",) and isinstance(fault["input"], dict))
        and not (fault["type"] == "model_type" and isinstance(fault["input"], str) and len(found) > 1)
    ]
    return meant or found


def _subject(error: Any) -> tuple[str | int, ...]:
    """What is missing has no place; what it is missing from does."""
    location: tuple[str | int, ...] = error["loc"]
    return location[:-1] if error["type"] == "missing" else location


def _path_in(content: Any, location: Sequence[str | int]) -> KeyPath:
    """Pydantic's location without the names of union members."""
    path: list[str | int] = []
    for position, part in enumerate(location):
        if isinstance(part, str) and part.startswith("function-"):  # pydantic's name of a check over several keys
            continue
        if isinstance(content, dict) and (part in content or position == len(location) - 1):
            content = content.get(part)
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            content = content[part]
        else:
            continue
        path.append(part)
    return tuple(path)


def _model_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel] | None:
    """The schema of the mapping at a location of pydantic's."""
    candidates: list[type[BaseModel]] = [model]
    for part in location:
        tagged = [c for c in candidates if part == c.__name__ or part in _tags(c)]
        if tagged:
            candidates = tagged
            continue
        fields = [c.model_fields[part] for c in candidates if isinstance(part, str) and part in c.model_fields]
        if fields:
            candidates = [found for field in fields for found in _models_in(field.annotation)]
    return candidates[0] if candidates else None


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("type")
    return typing.get_args(kind.annotation) if kind is not None else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _models_in(part)]
