"""YAML without surprises: loaded safely, as YAML 1.2 reads it, with the line of every key; a key given twice is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from harness.errors import StudyError

KeyPath = tuple[str | int, ...]

_MOST_VALUES = 100_000
"""Aliases of aliases can make a small file stand for an endless study."""


class _Loader(yaml.SafeLoader):
    """The scalars of YAML 1.2: `1e-3` is a number, `no` and `2026-01-01` are strings. Of tags, only plain data's are known."""

    yaml_implicit_resolvers = {}


for _tag, _pattern, _first in (
    ("null", r"^(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^([-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
    ("merge", r"^<<$", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def parse_value(text: str) -> Any:
    """A value as it could stand in a study. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def read_yaml(file: Path) -> tuple[Any, dict[KeyPath, int]]:
    """The file's content, and the line (from 1) of every key and list item by its path of keys. Raises StudyError."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{file}: cannot be read: {error}") from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        lines = {} if node is None else _lines(node, file)
        content = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark is not None else str(file)
        raise StudyError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    return _unshared(content), lines


def _lines(root: yaml.Node, file: Path) -> dict[KeyPath, int]:
    lines: dict[KeyPath, int] = {}

    def collect(node: yaml.Node, path: KeyPath, above: frozenset[int]) -> None:
        if id(node) in above or len(lines) > _MOST_VALUES:
            raise StudyError(f"{file}:{node.start_mark.line + 1}: an alias (*) stands for itself, or for too many values")
        above |= {id(node)}
        lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in seen:
                    raise StudyError(f"{file}:{line}: the key {name!r} is given twice in the same mapping")
                seen.add(name)
                lines[(*path, name)] = line
                collect(value, (*path, name), above)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                collect(value, (*path, index), above)

    collect(root, (), frozenset())
    return lines


def _unshared(content: Any) -> Any:
    """A copy in which an aliased mapping is as many mappings: an override of one place does not change the others."""
    if isinstance(content, dict):
        return {key: _unshared(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_unshared(value) for value in content]
    return content
