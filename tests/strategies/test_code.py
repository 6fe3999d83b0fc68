"""What counts as a strategy's code: what is computed, not how it is explained or where it lies."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import strategies.code
from strategies.code import code_digest, remember_source

PLAIN = '''"""A strategy."""

from strategies.parts.probabilities import entropy

TEXT = """
# no comment
"""


def weight(x):
    return entropy(x)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a module `weighed`, which is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(strategies.code, "_loaded", {})
    yield tmp_path / "weighed.py"
    sys.modules.pop("weighed", None)


def digest_of(file: Path, text: str) -> str:
    """As a new process would find it."""
    file.write_text(text, "utf-8")
    sys.modules.pop("weighed", None)
    importlib.invalidate_caches()
    strategies.code._loaded.clear()
    importlib.import_module("weighed")
    return code_digest(["weighed"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A strategy."""', '"""A strategy, explained\nat length."""'),
        ("def weight(x):\n", 'def weight(x):\n    """[batch]"""\n'),
        ("def weight(x):\n", "# why it is so\n\n\ndef weight(x):\n"),
        ("from strategies.parts.probabilities import entropy", "from strategies.parts.probabilities import (\n    entropy,\n)"),
    ],
)
def test_words_comments_and_places_do_not_count(module: Path, old: str, new: str) -> None:
    before = digest_of(module, PLAIN)
    assert digest_of(module, PLAIN.replace(old, new, 1)) == before


@pytest.mark.parametrize(("old", "new"), [("return entropy(x)", "return 2 * entropy(x)"), ("# no comment", "# another text")])
def test_code_counts_and_so_does_text_that_it_uses(module: Path, old: str, new: str) -> None:
    assert digest_of(module, PLAIN.replace(old, new, 1)) != digest_of(module, PLAIN)


def test_the_digest_is_of_what_this_process_has_loaded(module: Path) -> None:
    before = digest_of(module, PLAIN)
    remember_source("weighed")
    module.write_text(PLAIN.replace("return entropy(x)", "return 0"), "utf-8")
    assert code_digest(["weighed"]) == before
    strategies.code._loaded.clear()
    assert code_digest(["weighed"]) != before


def test_parts_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from strategies import resolve

    registered = resolve("wsl")
    before = registered.code_digest
    (part,) = [file for file in strategies.code._loaded if file.endswith("parts/probabilities.py")]
    monkeypatch.setitem(strategies.code._loaded, part, strategies.code._loaded[part] + "\nx = 1\n")
    assert registered.code_digest != before
