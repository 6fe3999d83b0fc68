"""The digest of what a strategy computes: changed code makes new trials, changed words and moved files do not."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

CONTRACT = frozenset(f"strategies.{name}" for name in ("base", "code", "lazy", "registry", "space"))
"""Modules that determine no weights: they do not count."""

_loaded: dict[str, str] = {}
"""File -> its text when this process loaded it. What the file has become since is not what runs here."""


def remember_source(module: str) -> None:
    """Note the source of a module that has just been imported, and of what it imports from this package."""
    for file in _source_files([module]):
        if file not in _loaded:
            _loaded[file] = Path(file).read_text("utf-8")


def code_digest(modules: Iterable[str]) -> str:
    """16 hex digits, of the source of these modules and of the strategies and parts that they import, directly or not.

    It is of the text, so that all versions of Python give the same: without docstrings, comment lines, blank lines, and
    imports from this package, whose content counts instead of its place.
    """
    texts = []
    for file in _source_files(modules):
        text = _loaded.get(file)
        texts.append(_effective(Path(file).read_text("utf-8") if text is None else text))
    return hashlib.sha256("\0".join(sorted(texts)).encode()).hexdigest()[:16]


@cache
def _effective(text: str) -> str:
    """Every trial that is planned asks for the digest, and parsing takes milliseconds."""
    return "\n".join(effective_lines(text))


def effective_lines(text: str, without: tuple[type[ast.stmt], ...] = ()) -> Iterator[str]:
    """The lines of a module that can change what it computes, and neither statements of the kinds `without`."""
    left_out: set[int] = set()
    verbatim: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant | ast.JoinedStr):
            verbatim.update(range(node.lineno + 1, (node.end_lineno or node.lineno) + 1))  # inside a text of several lines
        own = isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "strategies"
        if isinstance(node, ast.stmt) and (own or _is_text(node) or isinstance(node, without)):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for number, line in enumerate(text.split("\n"), 1):
        if number in left_out:
            continue
        if number in verbatim:
            yield line
        elif (kept := line.rstrip()) and not kept.lstrip().startswith("#"):
            yield kept


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _source_files(modules: Iterable[str]) -> set[str]:
    found: dict[str, str | None] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        module = sys.modules[name]
        found[name] = inspect.getsourcefile(module)
        used = {
            value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) for value in vars(module).values()
        }
        waiting += [n for n in used if isinstance(n, str) and n.startswith("strategies.") and n not in CONTRACT]
    return {file for file in found.values() if file is not None and Path(file).is_file()}
