"""`--set key.path=value` and `--set key.path+=item`: changes to a study's content before it is validated."""

from __future__ import annotations

import difflib
from typing import Any

import yaml

from harness.errors import StudyError
from harness.study.yaml_lines import KeyPath, parse_value


def apply_override(content: dict[str, Any], override: str) -> list[KeyPath]:
    """Set one value in place, or with += append to a list; returns the paths of what was set and of what was made for it.

    An item of a list is given by its number or, where items have names, by its label or name:
    `strategies.0.settings.kd_weight=0.3`, `strategies.wsl.settings.kd_weight=0.3`. What is appended is one item, or a list of
    them: `strategies+=wsl`. Raises StudyError.
    """
    name, equals, text = override.partition("=")
    append = name.endswith("+")
    parts = name.removesuffix("+").strip().split(".")
    if not equals or not all(parts):
        raise StudyError(f"--set {override}: an override is written key.path=value, e.g. --set training.epochs=2")
    try:
        value = parse_value(text)
    except yaml.YAMLError as error:
        raise StudyError(f"--set {override}: {text!r} is not valid YAML: {getattr(error, 'problem', None) or error}") from error
    made: list[KeyPath] = []
    path: KeyPath = ()
    target: Any = content
    for part in parts[:-1]:
        key = _key(target, part, path, override)
        path = (*path, key)
        inner = target.get(key) if isinstance(target, dict) else target[key]
        if inner is None:
            inner = {}
            made.append(path)
        elif isinstance(inner, str) and isinstance(target, list):  # a bare name is short for a mapping
            inner = {"name": inner}
        if not isinstance(inner, dict | list):
            raise StudyError(f"--set {override}: {_dotted(path)} is {inner!r}, which has no parts")
        target[key] = inner
        target = inner
    key = _key(target, parts[-1], path, override)
    path = (*path, key)
    if append:
        value = value if isinstance(value, list) else [value]
        there = target.get(key) if isinstance(target, dict) else target[key]
        if there is not None:
            if not isinstance(there, list):
                raise StudyError(f"--set {override}: {_dotted(path)} is {there!r}, not a list: += appends to one")
            target[key] = there + value
            return [*made, *((*path, i) for i in range(len(there), len(target[key])))]
    target[key] = value
    return [*made, path]


def _key(target: Any, part: str, path: KeyPath, override: str) -> str | int:
    if isinstance(target, dict):
        return part
    if part.isdigit() and int(part) < len(target):
        return int(part)
    names = [_name(item, labelled=path[:1] == ("strategies",)) for item in target]
    if names.count(part) == 1:
        return names.index(part)
    known = [name for name in names if name]
    near = difflib.get_close_matches(part, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise StudyError(
        f"--set {override}: {_dotted(path)} has no item {part!r}.{hint} Allowed: "
        + (f"0 to {len(target) - 1}" if target else "none, the list is empty")
        + (f", or {', '.join(known)}" if known else "")
    )


def _name(item: Any, labelled: bool) -> str:
    """`labelled`: by its label, where it has one; that of a task is a column."""
    if isinstance(item, dict):
        item = (item.get("label") if labelled else None) or item.get("name")
    return item if isinstance(item, str) else ""


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))
